"""The sandbox's Tableau: the REST API, the Metadata API and the VizQL Data Service over one site's content."""

from connector.sandbox.tableau.content import App, Column, Datasource, Project, Shown, Site, Token, View, Workbook
from connector.sandbox.tableau.service import JobPlan, Tableau

__all__ = ["App", "Column", "Datasource", "JobPlan", "Project", "Shown", "Site", "Tableau", "Token", "View", "Workbook"]
