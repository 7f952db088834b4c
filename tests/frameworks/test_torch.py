"""`l2lcli.torch.LearnedOptimizer` as a PyTorch optimizer: states, groups, precision, gradient scaling, errors."""
# ruff: noqa: E402

import copy
import io
import pickle
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make frameworks")

from l2lcli import registry
from l2lcli.optimizers.lstm import LstmSpec
from l2lcli.optimizers.mlp import MlpSpec
from l2lcli.torch import LearnedOptimizer
from tests.frameworks.recorded import one_thread, parameters, record, stored

__all__ = ["one_thread"]


def fed(name, steps=3, first=0, **options):
    """(parameters, optimizer) after some recorded steps, each from where the one before ended."""
    params = parameters(record("digits", jnp.float32)[0].theta)
    optimizer = LearnedOptimizer(params, name, **options)
    feed(params, optimizer, first, first + steps)
    return params, optimizer


def feed(params, optimizer, start, stop):
    for step in record("digits", jnp.float32)[start:stop]:
        for p, grad in zip(params, step.grad, strict=True):
            p.grad = torch.tensor(grad).to(p.dtype)
        optimizer.step(loss=step.value)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", ["general", "digits-averages"])
def test_a_state_that_was_saved_goes_on_to_the_same_bits(name):
    params, optimizer = fed(name, horizon=9, weight_decay=0.01)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = LearnedOptimizer(again, name)
    other.load_state_dict(torch.load(file, weights_only=True))
    copied, pickled = copy.deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer)))
    feed(params, optimizer, 3, 6)
    assert optimizer.param_groups[0]["horizon"] == other.param_groups[0]["horizon"] == 9
    for those, their in ((again, other), copied, pickled):
        assert not same(params, those)  # nothing is shared
        feed(those, their, 3, 6)
        assert same(params, those)


def test_a_state_of_another_optimizer_is_refused():
    params, general = fed("general", 1)
    with pytest.raises(ValueError, match=r"the state is of another optimizer: .*, and this one is"):
        fed("digits", 1)[1].load_state_dict(general.state_dict())
    with pytest.raises(ValueError, match="none of l2l"):
        general.load_state_dict(torch.optim.Adam(params).state_dict())


def split(name, **options):
    """As `fed`, matrices in one group and the rest in another, which has these options."""
    params = parameters(record("digits", jnp.float32)[0].theta)
    groups = [[p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]]
    optimizer = LearnedOptimizer([{"params": groups[0]}, {"params": groups[1], **options}], name, horizon=5)
    feed(params, optimizer, 0, 3)
    return params


@pytest.mark.parametrize("name", ["general", "digits"])
def test_groups_have_options_of_their_own_and_are_one_network(name):
    one, two = fed(name, horizon=5)[0], split(name)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-4)
    still = split(name, scale=0.0)
    for start, a, b in zip(record("digits", jnp.float32)[0].theta, two, still, strict=True):
        assert torch.equal(b.detach(), torch.tensor(start)) if b.ndim < 2 else torch.equal(a, b)


def test_weight_decay_and_scale_are_those_of_load():
    start = record("digits", jnp.float32)[0].theta
    plain, half, decayed = (fed("digits", 1, **how)[0] for how in ({}, {"scale": 0.5}, {"weight_decay": 0.1}))
    for p, *moved in zip(start, plain, half, decayed, strict=True):
        a, b, c = (leaf.detach().numpy() - p for leaf in moved)
        np.testing.assert_allclose(b, 0.5 * a, atol=1e-6)
        np.testing.assert_allclose(c, a - 0.1 * p, atol=1e-6)


@pytest.mark.parametrize("name", ["general", "digits-averages"])
def test_a_parameter_without_a_gradient_is_passed_over(name):
    """Coordinatewise, each is as if it were alone; `general` also goes on, and a group may come later."""
    draw = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 2, 4, 3, generator=draw)
    absent = {1: [1], 3: [0], 4: [0, 1]}

    def run(chosen):
        params = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
        optimizer = LearnedOptimizer(params[:1], name, horizon=6)
        for t, both in enumerate(grads):
            if t == 1:
                optimizer.add_param_group({"params": params[1:], "horizon": 6})
            before = [p.detach().clone() for p in params]
            for k, p in enumerate(params):
                p.grad = None if k in absent.get(t, []) or k not in chosen else both[k].clone()
            optimizer.step(loss=1.0)
            for k, p in enumerate(params):
                moved = p.grad is not None and (k == 0 or t >= 1)
                assert torch.equal(p, before[k]) != moved and p.isfinite().all()
        return params

    together = run([0, 1])
    if name != "general":
        for k in (0, 1):
            assert torch.allclose(together[k], run([k])[k], atol=1e-6)


@pytest.mark.parametrize("name", ["general", "digits"])
def test_parameters_of_one_history_are_divided_when_they_part(name):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = LearnedOptimizer(params, name)
    for parted in (False, True, False):
        for k, p in enumerate(params):
            p.grad = None if parted and k == 1 else torch.arange(1.0, 4.0)
        optimizer.step(loss=1.0)
    seen = [(state["parameters"], state["seen"]) for state in optimizer.state["l2l"]["bundles"]]
    assert sorted(seen) == [([0, 2], 3), ([1], 2)]
    assert torch.equal(params[0], params[2]) and not torch.equal(params[0], params[1])


@pytest.mark.parametrize("name", ["general", "mnist"])
def test_matrices_whose_outputs_are_another_axis(name):
    plain = [torch.nn.Parameter(torch.linspace(-1, 1, n).view(shape)) for n, shape in ((720, (4, 2, 9, 10)), (1200, (3, 400)))]
    turned = [torch.nn.Parameter(p.detach().transpose(0, 1).contiguous()) for p in plain]
    there, here = LearnedOptimizer(plain, name), LearnedOptimizer(turned, name, outputs=1)
    for t in range(3):
        for p, q in zip(plain, turned, strict=True):
            p.grad = torch.sin((t + 1) * 10 * p.detach())
            q.grad = p.grad.transpose(0, 1)  # not contiguous
        there.step(loss=1.0)
        here.step(loss=1.0)
    for p, q in zip(plain, turned, strict=True):
        assert torch.allclose(p, q.transpose(0, 1), atol=1e-4)


@pytest.mark.parametrize("name", ["general", "digits"])
def test_half_precision_is_computed_in_single_and_rounded_once(name):
    half = parameters(record("digits", jnp.float32)[0].theta)
    half = [torch.nn.Parameter(p.detach().bfloat16()) for p in half]
    optimizer = LearnedOptimizer(half, name, weight_decay=0.0)
    before = [p.detach().float() for p in half]
    rounded = [torch.nn.Parameter(p.clone()) for p in before]
    other = LearnedOptimizer(rounded, name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feed(half, optimizer, 0, 1)
    for p, grad in zip(rounded, record("digits", jnp.float32)[0].grad, strict=True):
        p.grad = torch.tensor(grad).bfloat16().float()
    other.step(loss=record("digits", jnp.float32)[0].value)
    assert all(p.dtype == torch.bfloat16 for p in half)
    assert same([p.bfloat16() for p in rounded], half)
    leaves = [leaf for state in optimizer.state["l2l"]["bundles"] for leaf in state["coordinates"].values()]
    assert {leaf.dtype for leaf in leaves} == {torch.float32}


def test_autocast_and_fast_products_change_nothing():
    plain, _ = fed("general", 2)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast, _ = fed("general", 2)
        assert torch.get_float32_matmul_precision() == "medium"  # as the program left it
    finally:
        torch.set_float32_matmul_precision(before)
    assert same(plain, cast)


def test_a_gradient_scaler_unscales_and_skips():
    params = [torch.nn.Parameter(torch.ones(4))]
    other = [torch.nn.Parameter(torch.ones(4))]
    optimizer, plain = LearnedOptimizer(params, "general"), LearnedOptimizer(other, "general")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, float("inf"), 2.0):
        loss = (factor * params[0] ** 2).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer, loss=loss)
        scaler.update()
        optimizer.zero_grad()
        if factor < 10:
            other[0].grad = 2 * factor * other[0].detach()
            plain.step(loss=(factor * other[0].detach() ** 2).sum())
        assert torch.equal(params[0], other[0])
    assert optimizer.state["l2l"]["steps"] == 2 and params[0].isfinite().all()


def test_a_closure_gives_the_loss():
    params = [[torch.nn.Parameter(torch.ones(3, 2))] for _ in range(2)]
    first, second = (LearnedOptimizer(own, "general") for own in params)

    def closure():
        first.zero_grad()
        loss = (params[0][0] ** 2).sum()
        loss.backward()
        return loss

    for _ in range(3):
        loss = (params[1][0] ** 2).sum()
        second.zero_grad()
        loss.backward()
        assert torch.equal(first.step(closure), second.step(loss=loss))
    assert same(*params)
    assert not any(leaf.requires_grad for leaf in first.state["l2l"]["bundles"][0]["coordinates"].values())


def test_a_gradient_that_is_no_number_stays_in_the_state_as_in_jax():
    params, optimizer = fed("digits", 2)
    params[0].grad[0] = float("nan")
    for _ in range(2):
        optimizer.step()
        params[0].grad = torch.ones_like(params[0])
        assert params[0].isnan().sum() == 1 and all(p.isfinite().all() for p in params[1:])


def test_errors_are_one_line(tmp_path):
    p = torch.nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    general = LearnedOptimizer([p])
    for given, said in (({}, "reads the loss: step"), ({"loss": torch.ones(2)}, r"one number, and has shape \[2\]")):
        with pytest.raises(ValueError, match=said):
            general.step(**given)
    assert torch.equal(p, torch.ones(2, 2)) and not general.state["l2l"]["steps"]
    with pytest.raises(ValueError, match=r"scale -1.0, .*must not be negative"):
        LearnedOptimizer([p], scale=-1.0)
    with pytest.raises(ValueError, match=r"must not be negative"):
        general.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "horizon": -1})
    with pytest.raises(ValueError, match=r"real numbers, and one is torch\.complex64"):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(1, dtype=torch.complex64))])
    with pytest.raises(ValueError, match=r"outputs 2 is no axis of a parameter of shape \[2, 2\]"):
        LearnedOptimizer([p], outputs=2).step(loss=1.0)
    p.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        LearnedOptimizer([p]).step(loss=1.0)
    sgd = registry.optimizer.specs()["sgd"]()
    started = LstmSpec(learn_start=True)
    for spec, said in ((sgd, "scaled, not 'sgd'"), (started, "where training starts"), (MlpSpec(), "skip is missing")):
        with pytest.raises(ValueError, match=said) as caught:
            LearnedOptimizer([p], stored(tmp_path / "o.npz", spec, {"x": np.zeros(1)}))
        assert "\n" not in str(caught.value)


def test_a_step_loads_no_jax():
    code = "import sys, torch, l2lcli.torch\np = torch.nn.Parameter(torch.ones(3, 2)); p.grad = p.detach()\n"
    code += "l2lcli.torch.LearnedOptimizer([p]).step(loss=1.0)\nprint({'jax', 'optax', 'flax'} & set(sys.modules), p.sum() < 6)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "set() tensor(True)\n"
