#!/bin/sh
# A one-table flow and the demo with the installed wheel alone. Run by `make smoke` in an empty folder.
set -eu
connector --help >/dev/null
connector plugins
connector init --config init/connector.yaml
cat > deals.csv <<'CSV'
deal_id,owner,status,amount,created_at,closed_at
D-1,Ana,won,100.50,2026-01-02,2026-01-22
D-2,Bo,lost,0,2026-01-05,2026-02-01
D-3,Ana,open,70,2026-02-10,
CSV
cat > connector.yaml <<'YAML'
flows:
  smoke:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks:
      - type: excel
        drive: {type: local, folder: out}
        path: Pipeline.xlsx
        tables: [{from: deals, sheet: Deals, table: Deals, columns: [deal_id, owner, amount]}]
YAML
connector check
connector run smoke
connector run smoke | grep -q unchanged
test -s out/Pipeline.xlsx
connector query smoke "select sum(amount) as total from deals" --format csv | grep -q 170.5
connector demo --out demo
test -s demo/Pipeline.xlsx
echo "smoke: fine"
