"""What a Prefect server does by itself for our runs: by `automations.yaml`, and notices."""

import re
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from cxr_model.errors import ConfigError
from tasks.promotion import RED_GATE

NOTIFICATION = "cxr: notify on failure, crash or a red gate"


def read_automations(client: SyncPrefectClient, file: Path, notify: str) -> list[AutomationCore]:
    """Those of ``file``, and one that tells the block ``notify`` (``<type>/<name>``), if any.

    Raises ``ConfigError`` for a block that does not exist.
    """
    values = yaml.safe_load(file.read_text())
    if notify:
        values.append(_notification(_block_id(client, notify)))
    return [AutomationCore.model_validate(each) for each in values]


def _notification(block_id: str) -> dict[str, Any]:
    ours = {"prefect.resource.id": "prefect.tag.cxr", "prefect.resource.role": "tag"}
    return {
        "name": NOTIFICATION,
        "description": "Tells the operator through the block that 'cxr deploy --notify' named.",
        "trigger": {
            "type": "compound",
            "require": "any",
            "within": 0,
            "triggers": [
                _reactive("prefect.flow-run.Failed", match_related=ours),
                # A worker tells of a crash twice, ten seconds apart: one notice for both.
                _reactive("prefect.flow-run.Crashed", match_related=ours, within=30),
                _reactive(RED_GATE),
            ],
        },
        "actions": [
            {
                "type": "send-notification",
                "block_document_id": block_id,
                "subject": "CXResnet: {{ event.event }}",
                "body": "{{ event.resource.name or event.resource.id }}: {{ event.event }} at "
                "{{ event.occurred }}\n{{ event.payload }}",
            }
        ],
    }


def _reactive(event: str, **narrowed: Any) -> dict[str, Any]:
    return {
        "type": "event",
        "posture": "Reactive",
        "expect": [event],
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        **narrowed,
    }


def _block_id(client: SyncPrefectClient, slug: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", slug):
        raise ConfigError(
            f"--notify {slug!r}: write a block's type and name, as in slack-webhook/alerts"
        )
    kind, _, name = slug.partition("/")
    try:
        return str(client.read_block_document_by_name(name, kind).id)
    except ObjectNotFound as error:
        raise ConfigError(
            f"--notify {slug}: the Prefect server has no such block; make it in the UI, Blocks"
        ) from error


def upsert(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """By name: where there are several, one stays."""
    same_name = client.read_automations_by_name(automation.name)
    for surplus in same_name[1:]:
        client.delete_automation(surplus.id)
    if same_name:
        client.update_automation(same_name[0].id, automation)
    else:
        client.create_automation(automation)
