"""Two flows of one organisation share a refresh token that changes with each use, as YAML anchors invite to."""

import yaml

from connector.checks import check_flow
from connector.configfile import load
from connector.flow import Options, open_flow, run_flow
from connector.sandbox.company import Company
from connector.sandbox.salesforce import SalesforceOrg, Setup
from connector.sandbox.server import serve
from connector.settings import Settings


def test_two_flows_use_one_rotating_refresh_token(tmp_path):
    company = Company.generate(seed=4, deals=20, days=60)
    with serve(SalesforceOrg(company, Setup(rotate_refresh_tokens=True))) as running:
        auth = {"type": "refresh_token", "client_id": "sandbox-client", "refresh_token": "refresh-0"}
        crm = {"type": "salesforce", "base_url": running.url("salesforce"), "tables": ["deals"], "auth": auth}
        sink = {"type": "files", "format": "csv", "folder": "out", "tables": [{"from": "deals"}]}
        flows = {name: {"sources": {"crm": crm}, "sinks": [{**sink, "folder": f"out-{name}"}]} for name in ("north", "south")}
        (tmp_path / "connector.yaml").write_text(yaml.safe_dump({"flows": flows}), "utf-8")
        configs = load(tmp_path / "connector.yaml", {})
        for name in ("north", "south", "north", "south"):
            with open_flow(name, configs.flow(name), Settings(data=tmp_path / "data", threads=1), now=lambda: company.now) as flow:
                assert [finding for finding in check_flow(flow) if not finding.ok] == []
            with open_flow(name, configs.flow(name), Settings(data=tmp_path / "data", threads=1), now=lambda: company.now) as flow:
                assert run_flow(flow, Options())["exit_code"] == 0
