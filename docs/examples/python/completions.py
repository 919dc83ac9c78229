"""Reacts to completions on lane default. Needs no code of ffstream's.

    pip install -r requirements.txt
    FFSTREAM_NATS_URL=nats://127.0.0.1:4222 python completions.py

The tests run it.
"""

import asyncio
import json
import os
import signal

import nats
from nats.errors import TimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

STREAM = os.environ.get("FFSTREAM_STREAM", "FFSTREAM")
PREFIX = os.environ.get("FFSTREAM_SUBJECT_PREFIX", "ff")


async def main() -> None:
    stop = asyncio.Event()
    for s in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(s, stop.set)
    nc = await nats.connect(os.environ.get("FFSTREAM_NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    # A consumer that exists is taken as it is, and goes on where it was.
    consumer = await nc.jetstream().pull_subscribe(
        f"{PREFIX}.exec.*.*.default.completed",
        durable="completions-python",
        stream=STREAM,
        config=ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            max_ack_pending=1,  # in order: nothing new while one is being handled
        ),
    )
    while not stop.is_set():
        try:
            messages = await consumer.fetch(1, timeout=1)
        except TimeoutError:
            continue
        for m in messages:
            event = json.loads(m.data)  # fields may be added: ignore unknown ones
            data = event["data"]
            # A snapshot, which a backfill took of what had completed before, is no completion.
            if event["type"] == "ffstream.execution.transitioned.v1":
                # The effect. It may come again after a crash: event["id"] tells.
                print(event["id"], data["execution_id"], data["from"], "->", data["to"], flush=True)
            await m.ack()
    await nc.close()


asyncio.run(main())
