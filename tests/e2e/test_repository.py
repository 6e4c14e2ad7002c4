"""A folder of models: real servers that load, unload and replace them while a neighbour's stream is watched."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from gatestream.cli.models import command
from gatestream.client import connect
from gatestream.client.errors import InputError, ModelError, ModelUnknownError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import accumulator
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving, start
from tests.support.scrape import HTTP, address, get
from tests.support.strangers.generators import ADOPTED
from tests.support.strangers.layers import lstm_exposed
from tests.support.strangers.oracle import Oracle
from tests.support.wire import PATIENCE, Stream, bearer, call_refused, channel, until
from tests.support.workers import process_of, started, streams_on_both

ADMIN, USER = "token-of-an-admin-0123456789", "token-of-a-user-0123456789"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def put(models: Path, name: str, version: int, initial: float = 0.0, features: int = 2) -> Path:
    """An accumulator whose new sessions begin at a number of their own."""
    path = models / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    return accumulator(path, features, name="its spec's own name", version="its spec's own", initial=initial)


def put_broken(models: Path, name: str, version: int) -> None:
    """An artifact whose weights are not those that it was written with."""
    path = put(models, name, version)
    model = onnx.load(path)
    (table,) = [each for each in model.graph.initializer if each.name == "table"]
    table.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "table"))
    onnx.save(model, path)


@contextmanager
def control(server: ServerProcess) -> Iterator[pb_grpc.ModelControlStub]:
    with channel(server.address) as opened:
        yield pb_grpc.ModelControlStub(opened)


def listed(stub: pb_grpc.ModelControlStub, **metadata: Any) -> dict[tuple[str, str], pb.ModelStatus]:
    found = stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE, **metadata).models
    return {(each.name, each.version): each for each in found}


def states(stub: pb_grpc.ModelControlStub) -> dict[tuple[str, str], str]:
    return {key: pb.ModelState.Name(each.state).removeprefix("MODEL_STATE_") for key, each in listed(stub).items()}


def load(stub: pb_grpc.ModelControlStub, name: str, version: str = "", **fields: Any) -> pb.LoadModelResponse:
    asked = pb.LoadModelRequest(name=name, version=version, **fields)
    answer: pb.LoadModelResponse = stub.LoadModel(asked, timeout=PATIENCE)
    return answer


def unload(stub: pb_grpc.ModelControlStub, name: str, version: str = "", **fields: Any) -> list[pb.ModelStatus]:
    asked = pb.UnloadModelRequest(name=name, version=version, **fields)
    return list(stub.UnloadModel(asked, timeout=PATIENCE).models)


@contextmanager
def watched_neighbour(address: str, model: str) -> Iterator[Callable[[], int]]:
    """A stream that steps one session all the while, each sum right; gives how many steps it has taken."""
    taken = [0]
    wrong: list[object] = []
    done = threading.Event()

    def go_on() -> None:
        try:
            with Stream(address) as stream:
                opened = stream.opened(0, model=model)
                begin = float(stream.stepped(0, [0.0, 0.0])[0, 0])
                assert opened.created
                while not done.is_set():
                    taken[0] += 1
                    found = float(stream.stepped(0, [1.0, 1.0])[0, 0])
                    if found != begin + taken[0]:
                        wrong.append((taken[0], found))
                        return
        except Exception as error:
            wrong.append((taken[0], repr(error)))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield lambda: taken[0]
    finally:
        done.set()
        thread.join()
    assert wrong == []


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


FEATURES, HIDDEN = 3, 8


def put_lstm(models: Path, cell: Lstm, version: int, *, gates: bool) -> None:
    path = models / "lstm" / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    (cell.save if gates else cell.save_fused)(path)


def test_sessions_move_between_forms_under_traffic(models: Path) -> None:
    """A stream of packed steps and one of single steps, moved to and fro: each number as the equations give it."""
    cell = Lstm.random(features=FEATURES, hidden=HIDDEN)
    put_lstm(models, cell, 1, gates=False)
    put_lstm(models, cell, 2, gates=True)
    put_lstm(models, Lstm.random(features=FEATURES, hidden=HIDDEN, seed=9), 3, gates=True)
    (models / "lstm" / "config.pbtxt").write_text("version_policy { specific { versions: [1] } }")
    with serving(models=models, model_control=True) as server, control(server) as stub:
        load(stub, "lstm", "2")
        done = threading.Event()
        wrong: list[object] = []
        rng = np.random.default_rng(5)

        def go_on(sessions: int, length: int) -> None:
            try:
                with Stream(server.address) as stream:
                    for handle in range(sessions):
                        stream.opened(handle, model="lstm", version="1")
                    state = [(np.zeros(HIDDEN, np.float32),) * 2] * sessions
                    position = 0
                    while not done.is_set():
                        x = rng.standard_normal((sessions, length, FEATURES)).astype(np.float32)
                        stream.steps(dict(enumerate(x)), first=[position] * sessions)
                        position += length
                        got = stream.results(dict.fromkeys(range(sessions), length), HIDDEN)
                        for handle in range(sessions):
                            expected, _, state[handle] = cell.advance(x[handle], state[handle])
                            np.testing.assert_allclose(got[handle], expected, rtol=0, atol=2e-5)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=go_on, args=shape) for shape in ((12, 3), (1, 1), (3, 20))]
        for thread in threads:
            thread.start()
        moved = []
        try:
            until(lambda: listed(stub)["lstm", "1"].sessions == 16, "all are open")
            for before, after in [("1", "2"), ("2", "1")] * 5:
                request = pb.MigrateSessionsRequest(name="lstm", from_version=before, to_version=after)
                moved.append(stub.MigrateSessions(request, timeout=PATIENCE).migrated)
                assert [listed(stub)["lstm", k].sessions for k in (before, after)] == [0, 16]
                time.sleep(0.05)
            # States move bit for bit.
            with Stream(server.address) as stream:
                stream.opened(0, "still", model="lstm", version="1")
                stream.steps({0: rng.standard_normal((9, FEATURES))})
                stream.results({0: 9}, HIDDEN)
                ask = pb.GetStateRequest(model="lstm", session_id="still")
                state = stream.calls.GetState(ask, timeout=PATIENCE)
                stub.MigrateSessions(pb.MigrateSessionsRequest(name="lstm", to_version="2"), timeout=PATIENCE)
                assert stream.calls.GetState(ask, timeout=PATIENCE) == state
                sessions = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE).sessions
                assert {each.version for each in sessions} == {"2"}
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert moved == [16] * 10
        load(stub, "lstm", "3")
        for before, after in (("2", "3"), ("2", "")):
            with (
                Stream(server.address) as stream,
                call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "its weights are others"),
            ):
                stream.opened(0, model="lstm", version="2")
                request = pb.MigrateSessionsRequest(name="lstm", from_version=before, to_version=after)
                stub.MigrateSessions(request, timeout=PATIENCE)
        # Gates that are asked for are not lost.
        with (
            Stream(server.address) as stream,
            call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "1 sessions on version '2'"),
        ):
            stream.opened(0, model="lstm", version="2", gates=True)
            stub.MigrateSessions(pb.MigrateSessionsRequest(name="lstm", to_version="1"), timeout=PATIENCE)


def test_all_workers_do_it(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    with serving(models=models, model_control=True, workers=2) as server, control(server) as stub:
        with streams_on_both(server) as both:
            for handle, stream in enumerate(both):
                stream.opened(handle, f"of-{handle}", model="m")
                assert stream.stepped(handle, [1, 1])[0, 0] == 1001
            put(models, "m", 2, initial=2000)
            answer = load(stub, "m", migrate=True)
            assert (answer.model.version, answer.model.sessions, answer.migrated) == ("2", 2, 2)
            for handle, stream in enumerate(both):
                assert stream.stepped(handle, [1, 1])[0, 0] == 1002
                stub_here = pb_grpc.ModelControlStub(stream.channel)
                assert [(key, each.sessions) for key, each in listed(stub_here).items()] == [
                    (("m", "1"), 0),
                    (("m", "2"), 2),
                ]
            # A session that was moved is still this worker's alone, and its name is free when it ends.
            here, there = both
            there.open(6, "of-0", model="m")
            assert there.refused().reason == pb.REASON_SESSION_ELSEWHERE
            here.close(0)
            here.expect("closed")
            assert there.opened(6, "of-0", model="m").created
            for stream in both:
                assert stream.opened(7, model="m").version == "2"
            unload(stub, "m", "1")
            for stream in both:
                until(
                    lambda stream=stream: states(pb_grpc.ModelControlStub(stream.channel))["m", "1"] == "UNLOADED",  # type: ignore[misc]
                    "all workers unloaded it",
                )
            put_broken(models, "m", 3)
            with call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "m/3/model.onnx"):
                load(stub, "m")
            found = {pb_grpc.ModelControlStub(stream.channel): None for stream in both}
            assert len({tuple(sorted(states(each).items())) for each in found}) == 1
        assert server.terminate() == 0


def test_what_workers_cannot_serve_is_on_the_page_of_readiness(models: Path) -> None:
    put(models, "m", 1)
    put_broken(models, "broken", 1)
    with serving(models=models, model_control=True, workers=2, **HTTP) as server:

        def not_served() -> list[str]:
            status, _, body = get(address(server), "/readyz")
            first, *lines = body.decode().splitlines()
            assert (status, first) == (200, "ready")
            return lines

        [line] = not_served()
        assert line.startswith("not served: broken/1: broken/1/model.onnx: ")
        put(models, "broken", 1)
        with control(server) as stub:
            load(stub, "broken")
            until(lambda: not not_served(), "what is served is not on the page")
            put_broken(models, "m", 2)
            with pytest.raises(grpc.RpcError):
                load(stub, "m")
            # The one that is asked loads first.
            [line] = not_served()
            assert re.match(r"not served: worker [12]: m/2: m/2/model.onnx: ", line)
        assert server.terminate() == 0


def test_a_worker_that_is_started_anew_serves_what_the_others_do(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    put(models, "m", 2, initial=2000)
    put(models, "other", 1)
    with serving(models=models, model_control=True, workers=2) as server, control(server) as stub:
        load(stub, "m", "1")
        unload(stub, "other", deadline_s=0)
        until(lambda: states(stub)["other", "1"] == "UNLOADED", "it was unloaded")
        # Not what it would load by itself.
        put(models, "m", 3, initial=3000)
        os.kill(process_of(server, 2), signal.SIGKILL)
        started(server, 2, times=2)
        expected = {("m", "1"): "READY", ("m", "2"): "READY", ("m", "3"): "UNLOADED", ("other", "1"): "UNLOADED"}
        with streams_on_both(server) as both:
            for stream in both:
                assert states(pb_grpc.ModelControlStub(stream.channel)) == expected
                assert stream.opened(5, model="m").version == "2"
                assert stream.opened(6, model="m", version="1").version == "1"
        assert server.terminate() == 0


def test_every_worker_watches_the_folder(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    with serving(models=models, watch_models=0.1, workers=2) as server, control(server) as stub:
        put(models, "m", 2, initial=2000)
        until(lambda: states(stub)["m", "2"] == "READY", "all workers have loaded it")
        with streams_on_both(server) as both:
            assert [stream.opened(5, model="m").version for stream in both] == ["2", "2"]
        assert server.terminate() == 0


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


def test_files_of_others_are_adopted(models: Path, tmp_path: Path) -> None:
    """As they came, with the config.pbtxt that another server had for one: each step as the file itself gives it."""
    stranger = lstm_exposed(tmp_path)
    folder = models / "theirs"
    (folder / "4").mkdir(parents=True)
    (folder / "4" / "model.onnx").write_bytes(stranger.path.read_bytes())
    pairs = "".join(
        f'state {{ input_name: "{state.input}" output_name: "{state.output}" dims: [ 1, -1, 5 ] }} '
        for state in stranger.states
    )
    (folder / "config.pbtxt").write_text(
        f'name: "theirs"\nplatform: "onnxruntime_onnx"\nsequence_batching {{ {pairs} }}\n'
        f'input [ {{ name: "{stranger.inputs[0].name}" data_type: TYPE_FP32 dims: [ -1, -1, 3 ] }} ]\n'
    )
    swapped = models / "swapped"
    (swapped / "1").mkdir(parents=True)
    (swapped / "1" / "model.onnx").write_bytes(stranger.path.read_bytes())
    (swapped / "config.pbtxt").write_text('sequence_batching { state { input_name: "onnx::1" output_name: "none" } }')
    cache = tmp_path / "cache"
    oracle = Oracle(stranger)
    for again in (False, True):
        began = time.monotonic()
        with serving(models=models, model_control=True, adopt_cache=cache) as server, control(server) as stub:
            assert states(stub) == {("swapped", "1"): "FAILED", ("theirs", "4"): "READY"}
            assert "swapped/1/model.onnx" in listed(stub)["swapped", "1"].error
            x = oracle.sample(12, seed=3)
            (expected,) = oracle.run(x).values()
            with Stream(server.address) as stream:
                stream.opened(0, model="theirs")
                (rows,) = x.values()
                got = []
                for begin, end in ((0, 1), (1, 2), (2, 7), (7, 12)):
                    stream.steps({0: rows[begin:end]})
                    got.append(stream.results({0: end - begin}, 5)[0])
                np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=1e-6)
            adopted = [line for line in server.log.read_text().splitlines() if '"adopting"' in line]
            # What was made is kept; what failed is tried again.
            assert ["/theirs/4/" in line for line in adopted].count(True) == (0 if again else 1), (
                time.monotonic() - began
            )
    made = cache.glob("*.onnx")
    assert len(list(made)) == 1


def test_what_a_file_cannot_say_stands_in_its_configuration(models: Path, tmp_path: Path) -> None:
    stranger = ADOPTED["sample_rate"](tmp_path)
    oracle = Oracle(stranger)
    (models / "vad" / "1").mkdir(parents=True)
    (models / "vad" / "1" / "model.onnx").write_bytes(stranger.path.read_bytes())
    put(models, "m", 1)
    with serving(models=models, model_control=True) as server, control(server) as stub:
        error = listed(stub)["vad", "1"].error
        assert "--constant sr=VALUE" in error
        assert error.endswith(
            '; flags stand in vad/config.pbtxt: parameters { key: "adopt" value { string_value: "FLAGS" } }'
        )
        (models / "vad" / "config.pbtxt").write_text(
            'max_batch_size: 3 parameters { key: "adopt" value { string_value: "--constant sr=16000" } }'
        )
        load(stub, "vad")
        xs = oracle.sample(4, seed=1)
        [x], [y] = xs.values(), oracle.run(xs).values()
        with connect(server.address) as gs, gs.group("vad", 8) as group:
            found = np.stack([group.step(np.repeat(row[None], 8, axis=0)) for row in x])
            assert found == pytest.approx(np.repeat(y[:, None], 8, axis=1), abs=1e-5)
        with channel(server.address) as opened:
            asked = oip.ModelStatisticsRequest(name="vad")
            [stats] = oip_grpc.GRPCInferenceServiceStub(opened).ModelStatistics(asked, timeout=PATIENCE).model_stats
        assert {each.batch_size for each in stats.batch_stats} == {3, 2}, "eight, never more than three at once"


def many_means(count: int) -> onnx.ModelProto:
    """One step of so many running means of one input, each at a pace of its own: some seconds to adopt."""
    nodes, states, after = [], [], []
    for k in range(count):
        half = helper.make_node("Mul", [f"m{k}", f"pace{k}"], [f"half{k}"])
        nodes += [half, helper.make_node("Add", [f"half{k}", "x"], [f"n{k}"])]
        states.append(helper.make_tensor_value_info(f"m{k}", onnx.TensorProto.FLOAT, ["rows", 4]))
        after.append(helper.make_tensor_value_info(f"n{k}", onnx.TensorProto.FLOAT, ["rows", 4]))
    nodes.append(helper.make_node("Sum", [f"n{k}" for k in range(count)], ["y"]))
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 4]) for name in "xy")
    paces = [numpy_helper.from_array(np.array(0.5 + 0.4 * k / count, np.float32), f"pace{k}") for k in range(count)]
    graph = helper.make_graph(nodes, "means", [x, *states], [y, *after], paces)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_adopting_is_bounded(models: Path, tmp_path: Path) -> None:
    put(models, "m", 1)
    stranger = lstm_exposed(tmp_path)
    for name in ("theirs", "garbage"):
        (models / name / "1").mkdir(parents=True)
    (models / "garbage" / "1" / "model.onnx").write_bytes(b"\x08\x08" + b"no model" * 9)
    (models / "theirs" / "1" / "model.onnx").write_bytes(stranger.path.read_bytes())
    with serving(models=models, adopt_mib=128) as server, control(server) as stub:
        assert states(stub) == {("garbage", "1"): "FAILED", ("m", "1"): "READY", ("theirs", "1"): "FAILED"}
        for name in ("theirs", "garbage"):
            error = listed(stub)[name, "1"].error
            assert f"{name}/1/model.onnx: gatestream adopt: " in error
            assert "--adopt-mib" in error
    (models / "theirs" / "1" / "model.onnx").write_bytes(many_means(300).SerializeToString())
    with serving(models=models, adopt_seconds=1) as server, control(server) as stub:
        assert "was not adopted within 1 s (--adopt-seconds)" in listed(stub)["theirs", "1"].error


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
