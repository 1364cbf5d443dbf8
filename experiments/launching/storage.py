"""The disk that all machines of a run see: an NFS export or a bucket, which every launcher mounts in one place."""

import dataclasses
import re
import shlex

from experiments.launching import packages
from longctx.errors import UserError

MOUNT = "/mnt/longctx"


@dataclasses.dataclass(frozen=True)
class Storage:
    """A shared disk: `bucket` of Cloud Storage, or else the export `path` of the NFS server `host`."""

    bucket: str = ""
    host: str = ""
    path: str = ""

    @property
    def mounting(self) -> str:
        """The commands of a shell that mount it on an Ubuntu machine where it is not mounted yet."""
        if self.bucket:
            mount = f"mkdir -p {MOUNT} && gcsfuse --implicit-dirs {shlex.quote(self.bucket)} {MOUNT}"
            owned = "sudo chown $(id -u) "
            return f"mountpoint -q {MOUNT} || {{ sudo mkdir -p {MOUNT} && {owned}{MOUNT} && {mount}; }}"
        export = shlex.quote(f"{self.host}:{self.path}")
        mount = f"sudo mkdir -p {MOUNT} && sudo mount {export} {MOUNT}"
        return f"mountpoint -q {MOUNT} || {{ {packages.apt('nfs-common')} && {mount}; }}"

    @property
    def volume(self) -> dict:
        """The volume of a pod of Kubernetes on Google Cloud, without its name."""
        if self.bucket:
            options = {"bucketName": self.bucket, "mountOptions": "implicit-dirs"}
            return {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": options}}
        return {"nfs": {"server": self.host, "path": self.path}}


def parse(text: str) -> Storage:
    """The Storage that "gs://BUCKET" or "HOST:/EXPORT" stands for. Raises UserError for any other text."""
    if bucket := re.fullmatch(r"gs://([a-z0-9][a-z0-9._-]+)/?", text):
        return Storage(bucket=bucket[1])
    if export := re.fullmatch(r"([\w.-]+):(/[^/\s]\S*)", text):
        return Storage(host=export[1], path=export[2])
    raise UserError(f"--storage={text!r} must be HOST:/EXPORT, of an NFS server, or gs://BUCKET.")
