"""The functions of the store that take ids and no tenant, by the reason why that is safe."""

from __future__ import annotations

from typing import Final

BUILDS_VALUES: Final = {
    *("batch_row", "batch_values", "call_values"),  # they return a row's values and touch no table
}

WITHOUT_TENANT: Final[dict[str, set[str]]] = {
    "the caller looked the batch or file up by its tenant before (get_batch, get_file)": {
        *("audit_batch", "batch_figures", "batch_speeds", "failures_by_reason", "file_names"),
        *("find_batches", "follow_results", "known_file", "last_cursor", "latest_timings"),
        *("list_chunks", "open_content", "read_commits", "read_content", "record_page"),
        *("records_of", "stream_records", "token_series", "with_retryable"),
    },
    "the id was drawn by begin_upload for the same call": {"store_part", "abandon_upload"},
    "a worker runs the chunks of all tenants; what it may write is fenced by its lease": {
        *("beat", "claim_chunk", "claim_next", "commit_outcomes", "hold_lease", "leave"),
        *("lease_parameters", "missing_requests", "note_running", "queued_request"),
        *("release_lease", "release_unknown", "renew_lease", "result_row"),
    },
    "the validator reads the lines of all tenants' batches; its claim names the batch": {
        *("claim_validation", "fail_validation", "finish_validation", "prolong_validation"),
        *("set_model", "store_lines"),
    },
    "housekeeping for all tenants, on ids that it read from the database itself": {
        *("end_delivery", "expire_batch", "finalize_batch", "undo_dispatch"),
    },
    "a step inside a transaction of a function that is named here or takes a tenant": {
        *("close_attempt", "count_open_chunks", "end_batch", "end_validation", "fail_missing"),
        *("first_lease_at", "insert_lines", "is_wanted", "last_commit_at", "log_commit"),
        *("lose_lease", "plan_chunks", "quarantine", "unlease"),
    },
    "keys are made and revoked by the operator, on the command line alone": {
        *("get_key", "note_uses", "revoke_key"),
    },
}
