"""What a person is told of the monitor after a run."""

from dataclasses import replace

from zoft.stability.words import rows


def test_cost_learning_rate_and_edges_are_told(landscape) -> None:
    run = landscape(trace=10.0, stability_every=4)
    for _ in range(40):
        run(lr=1.0, halves=(1.6, 0.4))
    told = dict(rows(run.monitor))
    extra = run.monitor.curvature.forwards
    assert told["forward passes"].startswith(f"80 a micro-batch, and {extra} of the monitor's ({extra / 80:.1%}")
    assert "asked for 1," in told["learning rate"] and "by the descent edge" in told["learning rate"]
    assert told["edge of stability"].startswith("0.2 on a full batch") and "optimistic" in told["edge of stability"]


def test_a_rate_that_nothing_bounds_is_told_as_that(landscape) -> None:
    run = landscape(trace=10.0)
    run(lr=1e-3)
    assert dict(rows(run.monitor))["learning rate"] == "asked for 0.001, used 0.001 in the last step; never held back"


def test_forwards_of_another_estimator_are_counted_as_its_own(landscape) -> None:
    run = landscape(trace=10.0)
    run.monitor.around = replace(run.monitor.around, forwards=9)
    run(lr=1e-3)
    assert dict(rows(run.monitor))["forward passes"].startswith("9 a micro-batch, and ")


def test_a_run_that_moved_nothing_says_so(landscape) -> None:
    run = landscape(trace=10.0, stability_auto=True, stability_auto_steps=4)
    run.monitor.forwards = 1  # as of a run that was resumed at its end
    assert dict(rows(run.monitor))["learning rate"] == "no step was made"
    for moved in (False, False, False, True):
        run(lr=1.0)
        assert ("measure and move nothing" in dict(rows(run.monitor))["learning rate"]) is not moved
