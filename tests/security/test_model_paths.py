"""A model is a registered name, and nothing that a user names becomes a path."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

import httpx2
import pytest

from models.database import Database
from models.errors import ArtifactError, InputError, NotFoundError
from models.model_key import ModelKey, Weights
from tests.api.operations import CREATE, make_key, upload
from tests.api.serving import client
from tests.api.test_validator import line
from tests.llm.tiny_models import make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from tests.servers import wait_until
from worker.llm.add import add_model
from worker.llm.artifact import MANIFEST_NAME, open_artifact
from worker.llm.registry import Registry

KEY = ModelKey("tiny", Weights.INT8)
NAMES = [
    *("../../etc", "..", ".", "/etc/passwd", "/", "demo/../../x", "./demo", "demo/int8"),
    *("~root", "C:\\models", "..\\demo", "%2e%2e%2fetc", "demo\n", " demo", "-rf", ".hidden"),
    *("demo\0", "\0", "/dev/zero", "file:///etc/passwd", "$(id)", "*", "d\u0435mo", "", "x" * 97),
]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """With one model in it."""
    registry = Registry(tmp_path / "registry")
    source = make_byte_level(save_reference(make_reference(vocab_size=400), tmp_path / "source"))
    add_model(registry, str(source), name=KEY.name, weights=KEY.weights)
    return registry


@pytest.mark.parametrize("name", NAMES)
def test_such_a_name_is_no_models(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        ModelKey(name, Weights.INT8)
    with pytest.raises(InputError):
        ModelKey.parse(f"{name}:int8")
    with pytest.raises((InputError, NotFoundError)):
        Registry(tmp_path).resolve(name, None)


def test_in_lines_and_bodies_only_registered_names_are_models(database: Database, url: str) -> None:
    with client(url, make_key(database)) as session:
        for number, name in enumerate(NAMES):
            stored = upload(session, line(number, model=name)).json()
            for given in (
                {"input_file_id": stored["id"]},
                {"requests": [json.loads(line(number, model=name))]},
            ):
                made = session.post("/v1/batches", json={**given, **CREATE})
                assert made.is_error or ended(session, made.json()["id"]) == "failed", name
            shown = session.get(f"/v1/models/{quote(name, safe='')}")
            assert shown.status_code in {400, 404} or name in {"", "/", ".", ".."}
        served = [model["id"] for model in session.get("/v1/models").json()["data"]]
    assert served == ["demo:int8"]


def ended(session: httpx2.Client, batch_id: str) -> str:
    """How the batch ended that cannot run."""

    def status() -> str:
        return str(session.get(f"/v1/batches/{batch_id}").json()["status"])

    wait_until(lambda: status() != "validating", "its lines are checked")
    return status()


@pytest.mark.parametrize("linked", ["tiny", "tiny/int8"])
def test_a_link_that_leads_out_of_the_registry_is_not_followed(
    registry: Registry, tmp_path: Path, linked: str
) -> None:
    outside = (registry.root / linked).rename(tmp_path / "outside")
    (registry.root / linked).symlink_to(outside)
    kept = sorted(outside.rglob("*"))
    for use in (registry.find, registry.entry, registry.remove):
        with pytest.raises(ArtifactError, match="link to elsewhere"):
            use(KEY)
    with pytest.raises(ArtifactError, match="link to elsewhere"):
        add_model(registry, str(tmp_path / "source"), name=KEY.name, weights=KEY.weights)
    assert registry.entries() == []
    assert sorted(outside.rglob("*")) == kept


def test_the_registry_itself_may_be_a_link(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(registry.root)
    assert Registry(tmp_path / "link").find(KEY) == tmp_path / "link" / "tiny" / "int8"


def test_a_file_of_an_artifact_is_a_file(registry: Registry, tmp_path: Path) -> None:
    folder = registry.find(KEY)
    config = folder / "config.json"
    outside = config.rename(tmp_path / "config.json")
    for target in (outside, Path("/dev/zero")):
        config.symlink_to(target)
        with pytest.raises(ArtifactError, match="is a link"):
            open_artifact(folder, verify=True)
        config.unlink()
    os.mkfifo(config)  # to open it would be to wait for a writer
    with pytest.raises(ArtifactError, match="missing or was cut short"):
        open_artifact(folder, verify=True)
    manifest = folder / MANIFEST_NAME
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(NotFoundError):
        registry.find(KEY)
    with pytest.raises(ArtifactError, match="no artifact"):
        open_artifact(folder, verify=True)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", ".."])
def test_a_manifest_names_no_file_elsewhere(registry: Registry, name: str) -> None:
    path = registry.find(KEY) / MANIFEST_NAME
    manifest = json.loads(path.read_bytes())
    manifest["files"][name] = manifest["files"].pop("config.json")
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"outside of itself|missing"):
        open_artifact(registry.find(KEY), verify=False)


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil", "/etc/evil", "..", "evil\\..\\evil", "evil/evil", "~/evil", "C:evil"),
        *('evil"; filename="b', "evil\r\nset-cookie: a=b", "evil%0d%0aset-cookie: a=b"),
        *("evil\n\nbody", "evil; x=y", "evil\u202egnp.exe", "\u00e9vil"),
    ],
)
def test_an_uploads_name_is_a_label_and_no_path(
    database: Database, url: str, tmp_path: Path, name: str
) -> None:
    """It is kept as it was given and told in one header that holds nothing but ASCII."""
    before = set(tmp_path.rglob("*"))
    with client(url, make_key(database)) as session:
        part = f'form-data; name="file"; filename="{quoted(name)}"'.encode()
        body = b"--b\r\ncontent-disposition: %b\r\n\r\n{}\r\n" % part
        body += b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
        kind = {"content-type": "multipart/form-data; boundary=b"}
        made = session.post("/v1/files", content=body, headers=kind)
        if made.is_error:
            assert made.json()["error"]["code"] == "invalid_multipart"
            assert "\n" in name
            return
        answer = session.get(f"/v1/files/{made.json()['id']}/content")
    told = answer.headers["content-disposition"]
    label = re.fullmatch(r"attachment; filename\*=utf-8''([A-Za-z0-9_.~%-]*)", told)
    assert label is not None, told
    assert unquote(label[1]) == made.json()["filename"]
    assert "set-cookie" not in answer.headers
    assert not any("evil" in path.name for path in set(tmp_path.rglob("*")) - before)


def quoted(name: str) -> str:
    """As a client writes it between quotes; line ends are left as they are."""
    return name.replace("\\", "\\\\").replace('"', '\\"')
