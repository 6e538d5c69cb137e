"""Everything under ``/projects/{project}/verdicts``."""

from __future__ import annotations

from flask import Blueprint, Response, g

from perfgate_server import queries, record_schemas, records
from perfgate_server.auth import requires
from perfgate_server.blueprints import requests, responses
from perfgate_server.blueprints.routes import VERDICTS
from perfgate_server.keys import Permission
from perfgate_server.storage.verdicts import VerdictFilters, VerdictRecord

blueprint = Blueprint("verdicts", __name__)

_verdict_schema = record_schemas.VerdictSchema()
_verdicts_query = queries.VerdictsQuery()


@blueprint.post(VERDICTS)
@requires(Permission.WRITE)
def submit(project: str) -> Response:
    """Keep a verdict: 201; 400, 413, 415."""
    sent = requests.benchmark_body()
    # Unlike an upload's, unknown members are not named: clients send more from release to release.
    new = VerdictRecord(
        **requests.without_query(_verdict_schema, sent),
        id=records.new_id(),
        project=project,
        created_at=records.now(),
        created_by=g.key.actor,
    )
    verdict = requests.storage().add_verdict(new, deadline=g.deadline, now=records.now)
    return responses.json(records.verdict(verdict), 201)


@blueprint.get(VERDICTS)
@requires(Permission.READ)
def list_verdicts(project: str) -> Response:
    """A page of a project's verdicts, newest first: 200, also for none; 400."""
    parameters = requests.pairs()
    query = requests.query(_verdicts_query, parameters)
    page = requests.page(query)
    filters = VerdictFilters(
        **query, visible_prefix=g.key.visible_prefix, is_visible=g.key.is_visible
    )
    listing = requests.storage().list_verdicts(project, filters, page, deadline=g.deadline)
    page = page.as_cut(listing)
    entries = responses.entries(map(records.verdict, listing.records))
    return responses.listed("verdicts", entries, listing, page, parameters)
