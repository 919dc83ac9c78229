#!/bin/sh
# Reacts to completions on lane default with the nats command (github.com/nats-io/natscli)
# and jq.
set -eu
server=${FFSTREAM_NATS_URL:-nats://127.0.0.1:4222}
stream=${FFSTREAM_STREAM:-FFSTREAM}
prefix=${FFSTREAM_SUBJECT_PREFIX:-ff}

# To look: everything that the stream holds, and what comes.
#   nats --server "$server" subscribe --stream "$stream" --all "$prefix.exec.*.*.default.completed"

# To work: a consumer that the server keeps, one event at a time, acknowledged as
# it is taken: what this script was about to print when it is killed does not come again.
nats --server "$server" consumer info "$stream" completions-shell >/dev/null 2>&1 ||
	nats --server "$server" consumer add "$stream" completions-shell --pull --ack explicit --deliver all --replay instant \
		--filter "$prefix.exec.*.*.default.completed" --max-pending 1 --defaults >/dev/null
while event=$(nats --server "$server" consumer next "$stream" completions-shell --raw --ack --timeout 24h); do
	# A snapshot, which a backfill took of what had completed before, is no completion.
	printf '%s\n' "$event" | jq -r 'select(.type == "ffstream.execution.transitioned.v1") | "\(.id) \(.data.execution_id) \(.data.from) -> \(.data.to)"'
done
