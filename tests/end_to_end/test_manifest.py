"""The run manifest: everything product.md lists, in the output and beside the targets that want it."""

import json

YAML = """
flows:
  f:
    sources: {a: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks:
      - {type: excel, drive: {type: local, folder: out}, path: Pipeline.xlsx, manifest: true, tables: [{from: deals, table: Deals}]}
      - {type: files, folder: out, manifest: true, tables: [{from: deals}]}
      - {type: files, folder: plain, tables: [{from: deals}]}
"""
SOURCE = {
    "source", "entity", "mode", "rows_read", "inserted", "updated", "deleted", "watermark_before", "watermark_after", "requests", "retries",
    "seconds",
}  # fmt: skip
SINK = {
    "sink", "target", "outcome", "rows", "why", "bytes", "version_before", "version_after", "parts_changed", "parts_untouched", "seconds",
}  # fmt: skip


def test_what_it_says_and_where_it_lies(workplace):
    workplace.write("connector.yaml", YAML)
    workplace.write("deals.csv", "deal_id,status,amount\nD-1,open,10\n")
    printed = workplace.connector("run", "f", "--json").manifest
    assert {"flow", "run_id", "at", "outcome", "exit_code", "gate", "metrics", "warnings", "notified"} <= printed.keys()
    assert printed["sources"][0].keys() >= SOURCE
    assert all(table.keys() == {"name", "rows", "columns", "hash"} for table in printed["tables"])
    assert all(sink.keys() == SINK for sink in printed["sinks"])
    for name in ("Pipeline.manifest.json", "manifest.json"):
        assert json.loads((workplace.folder / "out" / name).read_text()) == printed
    assert [path.name for path in (workplace.folder / "plain").iterdir()] == ["deals.csv"]


def test_a_manifest_of_everything_does_not_go_to_each_owner(workplace):
    workplace.write("connector.yaml", YAML.replace("folder: out, manifest", "folder: 'out/{owner}', each: owner, manifest"))
    done = workplace.connector("check")
    assert done.code == 2
    assert "manifest tells of the whole flow" in done.err
