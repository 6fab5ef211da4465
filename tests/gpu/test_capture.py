"""A capture on a GPU sees what a capture of the same integers on the host sees, and never waits for the device."""

import pytest
import torch

import whydiff
from whydiff.capturing.adapters.torch.run import Run
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.steps import read_steps


def seen(program, device):
    """(op, fingerprints read, fingerprints written) of every call."""
    run = Run(program, (device,), {})
    trace = run.capture()
    return [
        (c.site.op, [e.fingerprint or e.skipped for e in c.reads], [e.fingerprint or e.skipped for e in c.writes])
        for c in trace.calls
    ]


def in_place(device):
    x = torch.arange(1000, device=device)
    total = torch.zeros_like(x)
    for step in range(5):
        y = x * step
        total += y
        y.zero_()
        x[::3].add_(1)
    x.t().mul_(2)
    return total, x


def freed(device):
    found = []
    for step in range(300):
        x = torch.full((5000,), step, device=device)
        found.append((x + 1).sum())
        del x
    return torch.stack(found)


def views(device):
    x = torch.arange(24, device=device).reshape(2, 3, 4)
    y = x.permute(2, 0, 1)
    z = y.contiguous()
    y.add_(z)
    w = x.view(torch.int32)[..., ::2] + 1
    return x, z, w, torch.cat([x.flatten(), z.flatten()])


def resized(device):
    x = torch.arange(6, device=device)
    y = x * 2
    x.resize_(2)
    y.resize_(3).fill_(7)
    return x + 1, y


@pytest.mark.parametrize("program", [in_place, freed, views, resized], ids=lambda p: p.__name__)
def test_the_same_integers_have_the_same_fingerprints(program):
    there, here = seen(program, "cuda"), seen(program, "cpu")
    assert [row[0] for row in there] == [row[0] for row in here]
    for number, (one, other) in enumerate(zip(there, here, strict=True)):
        assert one == other, number


def test_two_streams():
    def program(device):
        x = torch.arange(1 << 20, device=device)
        if device == "cpu":
            y = x * 3
            x.add_(1)
            z = y + 1
            y.zero_()
            return x, y, z + x
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            y = x * 3
        main.wait_stream(side)
        x.add_(1)
        with torch.cuda.stream(side):
            z = y + 1
        main.wait_stream(side)
        y.zero_()
        return x, y, z + x

    for _ in range(10):
        assert seen(program, "cuda") == seen(program, "cpu")


def test_nothing_waits_for_the_device_while_it_runs():
    model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(40)]).cuda()
    x = torch.randn(8, 64, device="cuda")
    with torch.no_grad():
        with Session() as warm:
            model(x)
        warm.trace_of = warm.calls
        with Session() as session:
            torch.cuda.set_sync_debug_mode("error")
            try:
                model(x)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert all(e.fingerprint for c in session.calls for e in c.writes if not e.skipped)


def test_what_runs_inside_a_cuda_graph_is_counted_as_not_seen():
    static = torch.ones(64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = static * 2 + 1

    def replayed(x):
        static.copy_(x)
        graph.replay()
        return out * 1.0

    x = torch.arange(64.0, device="cuda")
    diagnosis = whydiff.compare(replayed, lambda x: x * 2 + 1, x)
    assert str(diagnosis.verdict) == "identical"
    other = whydiff.compare(replayed, lambda x: x * 2 + 1.5, x)
    assert str(other.verdict) != "identical"
    assert any("CUDA graph" in note for note in other.notes), other.notes


def test_a_graph_recorded_during_a_capture():
    x = torch.arange(64.0, device="cuda")

    def program(x):
        static = x.clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = static * 2 + 1
        graph.replay()
        return out + 0.0

    trace = Run(program, (x,), {}).capture()
    reasons = {e.skipped for c in trace.calls for e in (*c.reads, *c.writes)}
    assert any("CUDA graph" in reason for reason in reasons)
    returned = [e for c in trace.calls if c.kind == "return" for e in c.reads]
    assert all(e.fingerprint for e in returned)


def test_gradients_are_recorded_as_they_are_on_the_host():
    def program(device):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        model(torch.ones(4, 8, device=device)).sum().backward()
        optimizer.step()
        return model[0].weight.detach()

    there, here = seen(program, "cuda"), seen(program, "cpu")
    kinds = [[row[0] for row in side if row[0] not in ("_to_copy", "copy_")] for side in (there, here)]
    assert [op for op in kinds[0] if op.endswith("_")] == [op for op in kinds[1] if op.endswith("_")]


def test_a_log_of_steps_equals_the_hosts_and_holds_no_gradients(tmp_path):
    def train(device, folder):
        model, held = torch.nn.Linear(512, 512, dtype=torch.float64).to(device), []
        with torch.no_grad():
            model.weight.copy_(torch.arange(512 * 512).reshape(512, 512) % 7)
            model.bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with whydiff.capture(folder, level="step"):
            for step in range(3):
                model((torch.arange(1024, device=device).reshape(2, 512) % (step + 2)).double()).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                held.append(torch.cuda.memory_allocated())
        return read_steps(folder).steps, held

    host, _ = train("cpu", tmp_path / "cpu")
    device, held = train("cuda", tmp_path / "cuda")
    for one, other in zip(host, device, strict=True):
        assert (one.weights, one.gradients, one.batch, one.losses) == (
            other.weights,
            other.gradients,
            other.batch,
            other.losses,
        )
        assert (one.sample.tobytes(), one.slopes.tobytes()) == (other.sample.tobytes(), other.slopes.tobytes())
    assert held[-1] < held[0] + 512 * 512 * 8
