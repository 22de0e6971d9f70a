"""`drive: {type: onedrive, …}` and `drive: {type: sharepoint, …}`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from connector.api import Location, NetworkConfig
from connector.auth.microsoft import CLOUDS, Certificate, Federation, HostIdentity, MicrosoftSignIn, Person, Proof, Secret
from connector.http import Session

CloudName = Literal["global", "us", "us-dod", "china"]


class _MicrosoftConfig(NetworkConfig):
    """How to sign in to Microsoft 365; exactly one of the ways."""

    tenant: str | None = Field(None, min_length=1, description="Directory (tenant) ID or domain; consumers for a personal OneDrive.")
    client_id: str | None = Field(None, min_length=1, description="Application (client) ID of the app registration.")
    client_secret: SecretStr | None = Field(None, description="Value of a client secret.")
    certificate: Location | None = Field(None, description="File with the app's private key and certificate, .pfx or PEM.")
    certificate_password: SecretStr | None = Field(None, description="Password of that file.")
    federated_token: Location | None = Field(None, description="File with a federated assertion, e.g. AKS workload identity's.")
    managed_identity: bool | str = Field(False, description="true: the machine's own identity; or the client id of an assigned one.")
    device_code: bool = Field(False, description="A person signs in once with `connector login`.")
    cloud: CloudName = Field("global", description="Which of Microsoft's clouds the tenant is in.")
    authority: str | None = Field(None, description="Address of the sign-in service, where it is not the cloud's own.")

    @model_validator(mode="after")
    def _one_way_to_sign_in(self) -> Self:
        ways = {
            "client_secret": self.client_secret is not None,
            "certificate": self.certificate is not None,
            "federated_token": self.federated_token is not None,
            "managed_identity": bool(self.managed_identity),
            "device_code": self.device_code,
        }
        chosen = [name for name, given in ways.items() if given]
        if len(chosen) != 1:
            raise ValueError(f"give exactly one of {', '.join(ways)}; there is: {', '.join(chosen) or 'none'}")
        if self.client_secret is not None and not self.client_secret.get_secret_value().strip():
            raise ValueError("client_secret is empty")
        if not self.managed_identity and not (self.tenant and self.client_id):
            raise ValueError(f"{chosen[0]} needs tenant and client_id")
        if not self.device_code and (self.tenant or "").casefold() in ("common", "organizations", "consumers"):
            raise ValueError(f"tenant {self.tenant!r} is for people: an app signs in to one tenant, by its id or domain")
        return self

    @property
    def graph_root(self) -> str:
        return self.base_url or CLOUDS[self.cloud].graph

    def proof(self) -> Proof:
        if self.client_secret is not None:
            return Secret(self.client_secret.get_secret_value())
        if self.certificate is not None:
            password = self.certificate_password
            return Certificate(Path(self.certificate), password.get_secret_value() if password else None)
        if self.federated_token is not None:
            return Federation(Path(self.federated_token))
        if self.managed_identity:
            return HostIdentity(self.managed_identity if isinstance(self.managed_identity, str) else None)
        return Person(self.permissions())

    def permissions(self) -> tuple[str, ...]:
        """What a person must consent to."""
        return ("Files.ReadWrite.All",)

    def sign_in(self, session: Session) -> MicrosoftSignIn:
        return MicrosoftSignIn(
            session,
            self.proof(),
            tenant=self.tenant or "",
            client_id=self.client_id or "",
            authority=self.authority or CLOUDS[self.cloud].login,
            resource=CLOUDS[self.cloud].graph,
        )


class OneDriveConfig(_MicrosoftConfig):
    """A person's OneDrive, a drive by its id, a share link, or the app's own folder."""

    placed: ClassVar[tuple[str, ...]] = ("type", "user", "drive_id", "item_id", "share_url", "approot")
    type: Literal["onedrive"] = "onedrive"
    user: str | None = Field(None, description="Whose OneDrive: user principal name or id. With device_code: one's own unless given.")
    drive_id: str | None = Field(None, description="A drive by its id.")
    item_id: str | None = Field(None, description="With drive_id: the folder the path starts in, or the file itself.")
    share_url: str | None = Field(None, description="A sharing link to the file, or to the folder the path starts in.")
    approot: bool = Field(False, description="The app's own folder (Apps/<app>), of `user` or of whoever signed in.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        chosen = [name for name in ("user", "drive_id", "share_url") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: name one drive")
        if not chosen and not self.device_code:
            raise ValueError("whose drive? give user, drive_id or share_url (an app has no OneDrive of its own)")
        if self.approot and chosen not in ([], ["user"]):
            raise ValueError(f"approot and {chosen[0]} exclude each other")
        if self.item_id and not self.drive_id:
            raise ValueError("item_id needs drive_id")
        return self

    def permissions(self) -> tuple[str, ...]:
        if self.approot:
            return ("Files.ReadWrite.AppFolder",)
        return ("Files.ReadWrite.All",) if self.user or self.drive_id or self.share_url else ("Files.ReadWrite",)


class SharePointConfig(_MicrosoftConfig):
    """A document library of a SharePoint site."""

    placed: ClassVar[tuple[str, ...]] = ("type", "site", "library")
    type: Literal["sharepoint"] = "sharepoint"
    site: str = Field(min_length=1, description="Address of the site, e.g. https://acme.sharepoint.com/sites/Sales, or its id.")
    library: str | None = Field(None, description="Name of the library; the site's default one unless given.")


MicrosoftConfig = OneDriveConfig | SharePointConfig
