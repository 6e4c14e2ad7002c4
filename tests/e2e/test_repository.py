"""A folder of models: real servers that load, unload and replace them while a neighbour's stream is watched."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from gatestream.cli.models import command
from gatestream.client import connect
from gatestream.client.errors import InputError, ModelError, ModelUnknownError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.process import serving, start
from tests.support.repository import control, listed, load, put, put_broken, states, unload, watched_neighbour
from tests.support.wire import PATIENCE, Stream, bearer, call_refused, channel, until

ADMIN, USER = "token-of-an-admin-0123456789", "token-of-a-user-0123456789"


def test_the_newest_version_is_served_and_others_are_listed(models: Path) -> None:
    for version in (1, 2, 10):
        put(models, "m", version, initial=1000.0 * version)
    put(models, "other", 1)
    (models / "m" / "notes").mkdir()
    (models / "m" / "007").mkdir()
    with serving(models=models) as server, control(server) as stub:
        assert states(stub) == {
            ("m", "1"): "UNLOADED",
            ("m", "2"): "UNLOADED",
            ("m", "10"): "READY",
            ("other", "1"): "READY",
        }
        with Stream(server.address) as stream:
            assert stream.opened(0, model="m").version == "10"
            assert stream.stepped(0, [1, 1])[0, 0] == 10001
            described = stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).models
            assert [(each.spec.name, each.spec.version) for each in described] == [("m", "10"), ("other", "1")]
        # What may be listed may not be changed.
        with pytest.raises(grpc.RpcError, match="explicit model load / unload is not allowed") as caught:
            load(stub, "m", "2")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert server.terminate() == 0


def test_a_policy_may_ask_for_more(models: Path, accumulator_path: Path) -> None:
    for version in (1, 2, 3):
        put(models, "m", version)
    (models / "m" / "config.pbtxt").write_text("version_policy { latest { num_versions: 2 } } dynamic_batching { }")
    # Beside a file that is named.
    with serving(accumulator_path, models=models) as server, control(server) as stub:
        assert states(stub) == {
            ("accumulator", "1"): "READY",
            ("m", "1"): "UNLOADED",
            ("m", "2"): "READY",
            ("m", "3"): "READY",
        }
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        ignored = [line for line in lines if line["event"].startswith("fields of a config.pbtxt")]
        assert [line["fields"] for line in ignored] == [["dynamic_batching"]] * 2


def test_models_come_and_go_beside_a_neighbour(models: Path) -> None:
    put(models, "first", 1, initial=7)
    with serving(models=models, model_control=True) as server, control(server) as stub:
        with watched_neighbour(server.address, "first") as taken:
            for k in range(1, 4):
                before = taken()
                put(models, "m", k, initial=1000.0 * k)
                loaded = load(stub, "m")
                assert (loaded.model.version, loaded.model.state) == (str(k), pb.MODEL_STATE_READY)
                until(lambda before=before: taken() > before, "the neighbour went on")  # type: ignore[misc]
            with Stream(server.address) as stream:
                stream.opened(0, "kept", model="m", version="2")
                stream.opened(1, model="m")
                assert [stream.stepped(handle, [1, 1])[0, 0] for handle in (0, 1)] == [2001, 3001]
                (status,) = unload(stub, "m", "2")
                assert (status.state, status.sessions) == (pb.MODEL_STATE_DRAINING, 1)
                assert stream.stepped(0, [1, 1])[0, 0] == 2002, "its sessions may go on"
                stream.open(2, model="m", version="2")
                assert stream.refused().reason == pb.REASON_DRAINING
                assert stream.calls.GetState(pb.GetStateRequest(model="m", session_id="kept")).position == 2
                # The deadline is brought forward.
                unload(stub, "m", "2", deadline_s=0)
                closed = stream.expect("closed")
                assert (list(closed.handle), closed.reason) == ([0], pb.CLOSE_REASON_DRAINED)
                until(lambda: states(stub)["m", "2"] == "UNLOADED", "it was unloaded")
                assert stream.stepped(1, [1, 1])[0, 0] == 3002
            assert load(stub, "m", "2").model.state == pb.MODEL_STATE_READY
        with call_refused(grpc.StatusCode.NOT_FOUND, pb.REASON_MODEL_UNKNOWN, "no version '9'", "there is: 1, 2, 3"):
            load(stub, "m", "9")
        with call_refused(grpc.StatusCode.NOT_FOUND, pb.REASON_MODEL_UNKNOWN, "no model 'absent' under --models"):
            load(stub, "absent")
        with call_refused(grpc.StatusCode.NOT_FOUND, pb.REASON_MODEL_UNKNOWN, "no model 'absent' of --models is"):
            unload(stub, "absent")
        assert server.terminate() == 0


def test_what_is_broken_is_listed_and_takes_nothing_down(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    put_broken(models, "m", 2)
    put(models, "said", 1)
    (models / "said" / "config.pbtxt").write_text('backend: "tensorrt"')
    with serving(models=models, model_control=True, http_listen="127.0.0.1:0") as server, control(server) as stub:
        found = listed(stub)
        assert states(stub) == {("m", "1"): "READY", ("m", "2"): "FAILED", ("said", "1"): "FAILED"}
        assert "m/2/model.onnx" in found["m", "2"].error
        assert found["said", "1"].error == ("said/config.pbtxt: backend is 'tensorrt'; expected 'onnxruntime', or none")
        assert not any("\n" in each.error or str(models) in each.error for each in found.values())
        with watched_neighbour(server.address, "m"):
            for _ in range(3):
                with call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "m/2/model.onnx"):
                    load(stub, "m")
            # Another file in the place of one that is served: refused, the old one stays.
            put_broken(models, "m", 1)
            with call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "m/1/model.onnx"):
                load(stub, "m", "1")
            assert listed(stub)["m", "1"].state == pb.MODEL_STATE_READY
            assert "m/1/model.onnx" in listed(stub)["m", "1"].error
            put(models, "m", 2, initial=2000)
            assert load(stub, "m").model.version == "2"
            assert listed(stub)["m", "2"].error == ""


def test_nothing_to_serve_is_no_server(models: Path) -> None:
    with pytest.raises(RuntimeError, match=r"there is no NAME/VERSION/model\.onnx"):
        start(models=models)
    (models / "m" / "1").mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"m/1: m/1/model.onnx: is not there, or is a link that leaves --models"):
        start(models=models)
    with pytest.raises(RuntimeError, match="which is no folder that can be read"):
        start(models=models / "none")


def test_names_and_links_stay_in_the_folder(models: Path, tmp_path: Path) -> None:
    put(models, "m", 1)
    outside = put(tmp_path / "elsewhere", "secret", 1).parents[1]
    (models / "folder").symlink_to(outside)
    (models / "version").mkdir()
    (models / "version" / "1").symlink_to(outside / "1")
    (models / "file" / "1").mkdir(parents=True)
    (models / "file" / "1" / "model.onnx").symlink_to(outside / "1" / "model.onnx")
    (models / "config" / "1").mkdir(parents=True)
    (models / "config" / "config.pbtxt").symlink_to(tmp_path / "any.txt")
    (models / "inside").symlink_to(models / "m")
    # What is no folder, and no file, is nothing to wait for, and nothing that stops the server.
    (models / "loop").symlink_to(models / "loop")
    (models / "m" / "3").symlink_to(models / "m" / "3")
    for name in ("pipe/1/model.onnx", "folder_as_file/1/model.onnx", "pipe_as_config/1/model.onnx"):
        (models / name).parent.mkdir(parents=True)
    os.mkfifo(models / "pipe" / "1" / "model.onnx")
    (models / "folder_as_file" / "1" / "model.onnx").mkdir()
    put(models, "pipe_as_config", 1)
    os.mkfifo(models / "pipe_as_config" / "config.pbtxt")
    with serving(models=models, model_control=True) as server, control(server) as stub:
        for name in ("folder", "version", "file", "config"):
            with pytest.raises(grpc.RpcError) as caught:
                load(stub, name, "1")
            assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION), name
            assert str(outside) not in str(caught.value.details())
        for ask in (load, unload, lambda stub, name: stub.MigrateSessions(pb.MigrateSessionsRequest(name=name))):
            with pytest.raises(grpc.RpcError, match="the model's name is ''") as caught:
                ask(stub, "")
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        for name in ("../elsewhere/secret", "/etc", "..", ".", "m/1", "m\0", "m" * 300, "m\n"):
            with pytest.raises(grpc.RpcError) as caught:
                load(stub, name, "1")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND, name
        for version in ("../1", "1/", "0", "01", "-1", "1" * 30, "latest"):
            with pytest.raises(grpc.RpcError) as caught:
                load(stub, "m", version)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND, version
        assert {
            key[0]: each.error.rpartition(": ")[2] for key, each in listed(stub).items() if "pipe" in each.error
        } == {
            "pipe": "is not a regular file",
            "pipe_as_config": "is not a regular file",
        }
        assert "Is a directory" in listed(stub)["folder_as_file", "1"].error
        assert load(stub, "inside").model.state == pb.MODEL_STATE_READY, "a link that stays inside is taken"


def test_only_an_admin_may(models: Path, tmp_path: Path) -> None:
    put(models, "m", 1)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'"{ADMIN}" = {{ tenant = "ops", admin = true }}\n"{USER}" = "acme"\n')
    with (
        serving(models=models, model_control=True, tokens=tokens) as server,
        channel(server.address) as opened,
    ):
        stub, door = pb_grpc.ModelControlStub(opened), oip_grpc.GRPCInferenceServiceStub(opened)
        user, admin = (dict[str, Any](metadata=bearer(token), timeout=PATIENCE) for token in (USER, ADMIN))
        calls: list[tuple[Any, Any]] = [
            (stub.ListModels, pb.ListModelsRequest()),
            (stub.LoadModel, pb.LoadModelRequest(name="m")),
            (stub.UnloadModel, pb.UnloadModelRequest(name="m")),
            (stub.MigrateSessions, pb.MigrateSessionsRequest(name="m")),
            (door.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name="m")),
            (door.RepositoryModelUnload, oip.RepositoryModelUnloadRequest(model_name="m")),
        ]
        for call, request in calls:
            with call_refused(grpc.StatusCode.PERMISSION_DENIED, pb.REASON_FORBIDDEN, "marks with admin = true"):
                call(request, **user)
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=PATIENCE)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        # What is served, a user may know.
        assert [each.name for each in door.RepositoryIndex(oip.RepositoryIndexRequest(), **user).models] == ["m"]
        assert len(listed(stub, metadata=bearer(ADMIN))) == 1
        stub.LoadModel(pb.LoadModelRequest(name="m"), **admin)
        # A token that is an admin's no longer is refused from then on.
        tokens.write_text(f'"{ADMIN}" = "ops"\n')

        def refused() -> bool:
            try:
                stub.ListModels(pb.ListModelsRequest(), **admin)
            except grpc.RpcError as error:
                return error.code() == grpc.StatusCode.PERMISSION_DENIED
            return False

        until(refused, "the tokens were read again")


def test_by_the_open_inference_protocol(models: Path) -> None:
    put(models, "m", 1)
    put(models, "m", 2)
    with serving(models=models, model_control=True) as server, channel(server.address) as opened:
        door = oip_grpc.GRPCInferenceServiceStub(opened)

        def index(ready: bool = False) -> list[tuple[str, str, str, str]]:
            found = door.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=PATIENCE).models
            return [(each.name, each.version, each.state, each.reason) for each in found]

        def asked(kind: Any, **parameters: Any) -> Any:
            return kind(
                model_name="m",
                parameters={name: oip.ModelRepositoryParameter(**value) for name, value in parameters.items()},
            )

        assert index() == [("m", "1", "UNAVAILABLE", "unloaded"), ("m", "2", "READY", "")]
        assert index(ready=True) == [("m", "2", "READY", "")]
        door.RepositoryModelLoad(asked(oip.RepositoryModelLoadRequest, version={"string_param": "1"}), timeout=PATIENCE)
        assert index(ready=True) == [("m", "1", "READY", ""), ("m", "2", "READY", "")]
        described = door.ModelMetadata(oip.ModelMetadataRequest(name="m"), timeout=PATIENCE)
        assert list(described.versions) == ["1", "2"]
        door.RepositoryModelUnload(
            asked(oip.RepositoryModelUnloadRequest, version={"int64_param": 2}), timeout=PATIENCE
        )
        until(lambda: index() == [("m", "1", "READY", ""), ("m", "2", "UNAVAILABLE", "unloaded")], "2 was unloaded")
        assert not door.ModelReady(oip.ModelReadyRequest(name="m", version="2"), timeout=PATIENCE).ready
        for parameters in ({"config": {"string_param": "{}"}}, {"file:1/model.onnx": {"bytes_param": b"\x08"}}):
            with call_refused(grpc.StatusCode.INVALID_ARGUMENT, pb.REASON_MALFORMED, "come from --models alone"):
                door.RepositoryModelLoad(asked(oip.RepositoryModelLoadRequest, **parameters), timeout=PATIENCE)
        with call_refused(grpc.StatusCode.INVALID_ARGUMENT, pb.REASON_MALFORMED, "'odd' is not known"):
            door.RepositoryModelUnload(
                asked(oip.RepositoryModelUnloadRequest, odd={"bool_param": True}), timeout=PATIENCE
            )


def test_the_folder_is_watched_if_asked_for(models: Path, tmp_path: Path) -> None:
    put(models, "m", 1, initial=1000)
    with (
        serving(models=models, watch_models=0.1) as server,
        control(server) as stub,
        watched_neighbour(server.address, "m") as taken,
    ):
        put(models, "other", 3, initial=3000)
        put(models, "m", 2, initial=2000)
        until(lambda: list(states(stub).values()) == ["READY"] * 3, "what came was loaded")
        put_broken(models, "broken", 1)
        until(lambda: states(stub).get(("broken", "1")) == "FAILED", "what is broken is listed")
        # Replaced in place: new sessions are the new file's.
        put(tmp_path / "new", "other", 3, initial=9000).replace(models / "other" / "3" / "model.onnx")

        def first() -> float:
            with Stream(server.address) as stream:
                stream.opened(0, model="other")
                return float(stream.stepped(0, [1, 1])[0, 0])

        until(lambda: first() == 9001, "it was replaced")
        (models / "m" / "2").rename(tmp_path / "gone")
        until(lambda: ("m", "2") not in states(stub), "what went was unloaded")
        before = taken()
        until(lambda: taken() > before, "the neighbour went on")


def test_the_command(models: Path) -> None:
    put(models, "m", 1)
    put(models, "m", 2)
    with serving(models=models, model_control=True) as server:

        def run(*arguments: str) -> tuple[int, str]:
            result = CliRunner().invoke(command, [server.address, *arguments])
            return result.exit_code, result.output

        code, text = run()
        assert code == 0
        assert [line.split()[:4] for line in text.splitlines()] == [
            ["MODEL", "VERSION", "STATE", "SESSIONS"],
            ["m", "1", "UNLOADED", "0"],
            ["m", "2", "READY", "0"],
        ]
        code, text = run("load", "m", "--version", "1", "--json")
        assert (code, json.loads(text)["state"]) == (0, "READY")
        assert run("migrate", "m", "--from", "2", "--to", "1") == (0, "sessions moved: 0\n")
        code, text = run("unload", "m", "--version", "2", "--deadline", "0")
        assert (code, text.splitlines()[1].split()[1]) == (0, "2")
        code, text = run("load", "m", "--version", "5")
        assert (code, text) == (1, "Error: model 'm' has no version '5' under --models; there is: 1, 2\n")
        assert run("unload")[0] == 2
        code, text = run("list", "m", "--json")
        assert (code, [json.loads(line)["version"] for line in text.splitlines()]) == (0, ["1", "2"])
        assert run("list", "n") == (1, "Error: no model 'n' on the server; it has 'm'\n")
        assert run("list", "")[0] == run("load", "")[0] == 2
        assert run("migrate", "m", "--deadline", "3")[0] == 2


def test_the_client_goes_to_the_version_that_it_gets(models: Path) -> None:
    """One that was loaded since it connected, also where it has other columns."""
    put(models, "m", 1, initial=1000)
    with (
        serving(models=models, model_control=True) as server,
        control(server) as stub,
        connect(server.address) as gs,
        gs.session("m", id="old") as old,
    ):
        put(models, "m", 2, initial=2000, features=3)
        put(models, "late", 1, initial=500)
        load(stub, "m")
        load(stub, "late")
        with gs.session("m") as new, gs.session("m", version="1") as first, gs.session("late") as late:
            # Together in one message they would be refused.
            assert [each.step(np.ones(n))[0] for each, n in ((old, 2), (new, 3), (first, 2), (late, 2))] == [
                1001,
                2001,
                1001,
                501,
            ]
            with pytest.raises(InputError):
                new.step(np.ones(2))
            # Of each the state is read and set as its version has it, whichever is the newest.
            states = [each.get_state() for each in (old, new)]
            assert [state.arrays["s"].tolist() for state in states] == [[1001] * 2, [2001] * 3]
            gs.fork("old", "copy", "m")
            assert gs.set_state("copy", replace(states[0], position=7), "m") == 7
            new.set_state(states[1])
            assert (new.step(np.ones(3))[0], gs.get_state("copy", "m").position) == (2002, 7)
            # Printed, a line for each.
            assert repr(gs.models) == (
                "m 2: takes x float32[3]; carries s float32[3]; gives y float32[3]\n"
                "late 1: takes x float32[2]; carries s float32[2]; gives y float32[2]"
            )
        with pytest.raises(ModelUnknownError, match="the server has no version '9' of model 'm'; it has '1', '2'"):
            gs.session("m", version="9")
        with pytest.raises(ModelError, match="were opened on versions 1, 2 of 'm'"):
            gs.group("m", ["old", "another"])
