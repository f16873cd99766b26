"""What makes two submissions the same, and the token of one that differs."""

import hashlib
import json
from collections.abc import Mapping

from portal.applications.parameters import Value
from portal.jobs.address import Address
from portal.jobs.directory import JobDirectory, JobsFolder
from portal.jobs.store import JobRecord


def contents_of_values(values: Mapping[str, Value]) -> dict[str, str]:
    """What makes two submissions the same: canonical texts, and digests of files."""
    return {
        name: value.text if value.content is None else hashlib.sha256(value.content).hexdigest()
        for name, value in values.items()
    }


def contents_of_record(record: JobRecord, folder: JobsFolder) -> dict[str, str]:
    """The same of a job that was accepted; empty for a file that cannot be read any more."""
    directory = folder.job(record.job.job_id)
    contents = {}
    for row in record.inputs:
        is_file = row.kind in ("file", "longtext")
        try:
            contents[row.name] = _digest_of_input(directory, row.name) if is_file else row.text
        except OSError:
            contents[row.name] = ""
    return contents


def _digest_of_input(directory: JobDirectory, name: str) -> str:
    return hashlib.sha256((directory.inputs / name).read_bytes()).hexdigest()


def token_for_contents(token: str, application: str, values: Mapping[str, Value], address: Address) -> str:
    """The token of a form that was sent with one token before and with other contents now."""
    text = json.dumps([token, application, contents_of_values(values), address.owner], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
