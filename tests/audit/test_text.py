"""The report as text: the verdict first, faults with both sides, nothing hostile on a terminal."""

from __future__ import annotations

import pytest

from hyperpy.audit.text import FEW, render
from hyperpy.verdicts import Finding, Report, StepReport, Verdict


def step(number: int, verdict: Verdict = Verdict.REPRODUCED, **more: object) -> StepReport:
    name = f"{number:043d}"
    fields = {"record": name, "device": "calculator@1.0", "key": "add", "status": "ok", "base": "B" * 43}
    fields |= {"request": "Q" * 43, "result": "R" * 43, "before": "B" * 43, "after": "B" * 43 + "/add"}
    return StepReport(**fields, verdict=verdict, **more)  # type: ignore[arg-type]


def first_line(report: Report, **options: bool) -> str:
    return render(report, **options).splitlines()[0]


def test_reproduced_says_how_many_inputs_were_given() -> None:
    assert first_line(Report("X", [step(1)])) == "reproduced"
    assert first_line(Report("X", [step(1, given=1)])) == "reproduced, given 1 attested input"
    both = Report("X", [step(1, given=1), step(2, given=1)])
    assert first_line(both) == "reproduced, given 2 attested inputs"
    assert "do not pass" in first_line(both, strict=True)


def test_the_first_line_says_where_it_diverged_and_both_sides_stand_below_each_other() -> None:
    finding = Finding("result", "the result is another one", expected="AAA", got="BBB")
    steps = [step(n) for n in range(1, 13)]
    steps[6] = step(7, Verdict.DIVERGED, findings=(finding,))
    text = render(Report("X", steps))
    assert text.startswith("diverged at step 7 of 12: calculator@1.0 add: the result is another one\n")
    lines = text.splitlines()
    expected = next(n for n, line in enumerate(lines) if line.strip() == "expected  AAA")
    assert lines[expected + 1].strip() == "got       BBB"
    assert lines[expected].index("AAA") == lines[expected + 1].index("BBB")
    assert "hyperpy challenge" in text


def test_what_is_missing_is_named_with_the_places_that_were_looked_at() -> None:
    finding = Finding("missing", "message ABC is needed", where=("the store /a", "the receipt r.receipt"))
    text = render(Report("X", [step(1, Verdict.MISSING, findings=(finding,))]))
    assert text.startswith("missing at step 1 of 1")
    assert "looked in the store /a" in text
    assert "looked in the receipt r.receipt" in text
    assert "Next: " in text


def test_a_fault_of_no_step_is_told_with_its_rule() -> None:
    report = Report("f", findings=[Finding("file-digest", "the file is cut off")], base_verdict=Verdict.BAD_FILE)
    text = render(report)
    assert text.startswith("bad file: the file is cut off\n")
    assert "file-digest: " in text


def test_attested_names_who_vouches() -> None:
    report = Report("f", [step(1, Verdict.ATTESTED, attested_by=("ALICE",))], attested_by=("BOB",))
    assert first_line(report) == "attested by BOB, ALICE"


def test_many_steps_are_short_and_details_show_each() -> None:
    report = Report("X", [step(n) for n in range(1000)], total=1000)
    report.steps[500] = step(500, Verdict.DIVERGED, findings=(Finding("result", "another"),))
    short = render(report)
    assert len(short.splitlines()) < 20
    assert "999 reproduced, 1 diverged" in short
    assert "  501  !=" in short
    long = render(report, details=True)
    assert all(f"{n:043d}" in long for n in range(1000))


def test_few_steps_are_all_listed() -> None:
    text = render(Report("X", [step(n) for n in range(FEW)]))
    assert text.count("calculator@1.0 add") == FEW


def test_many_faults_are_counted() -> None:
    found = (Finding("result", "another"),)
    text = render(Report("X", [step(n, Verdict.DIVERGED, findings=found) for n in range(100)]))
    assert "and 80 more steps with findings" in text
    assert len(text.splitlines()) < 60


def test_a_sample_says_how_it_was_drawn() -> None:
    text = render(Report("X", [step(1)], total=50, sample={"size": 1, "seed": 7, "finds-one-lie": 0.02}))
    assert "1 of 50 steps" in text
    assert "seed 7" in text
    assert "finds-one-lie 0.02" in text


@pytest.mark.parametrize("bad", ["\x1b[2Jgone", "a\nreproduced", "\u202eevil", "\x07", "\udc80"])
def test_nothing_hostile_reaches_the_terminal(bad: str) -> None:
    finding = Finding(bad, bad, expected=bad, got=bad, where=(bad,))
    one = step(1, Verdict.DIVERGED, findings=(finding,), slot=(bad, 3), attested_by=(bad,))
    one.device = one.key = one.base = bad
    text = render(Report(bad, [one], findings=[finding], attested_by=(bad,)), details=True)
    assert bad not in text
    assert all(line.isprintable() for line in text.splitlines())
    text.encode("utf-8")


def test_texts_are_cut() -> None:
    one = step(1, Verdict.INVALID, findings=(Finding("r", "x" * 100_000, expected="y" * 100_000),))
    assert len(render(Report("z" * 100_000, [one]))) < 5_000
