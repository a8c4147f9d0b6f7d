"""``check`` never raises, cannot be fooled by an object, and says what is wrong."""

import contextlib
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.exercises import Case, Exercise, Mistake, check, hint, judge
from course_lib.exercises.compare import NotPlain, difference, plain
from course_lib.exercises.run import LATE, Outcome, TooSlow, call, call_all, time_limit


def bytes_of(parameters, weight, gradient, state, master):
    return parameters * (weight + gradient + 2 * state + master)


def test_says_correct(capsys):
    check("1.3", bytes_of)
    assert capsys.readouterr().out == "✓ Exercise 1.3 – Bytes of supervised fine-tuning: correct\n"


def test_names_the_property_the_smallest_input_and_the_mistake(capsys):
    check(
        "1.3",
        lambda parameters, weight, gradient, state, master: parameters * (weight + gradient + state + master),
    )
    out = capsys.readouterr().out
    assert "✗ Exercise 1.3" in out
    assert "Your answer should count weights, gradients and both of Adam's averages." in out
    assert (
        "On parameters = 1, weight = 4, gradient = 4, state = 4, master = 0: it returned 12, but 16 is right."
        in out
    )
    assert "Hint: Adam keeps two running averages" in out


def test_not_attempted(capsys):
    check("1.3", ...)
    assert "not attempted" in capsys.readouterr().out


def test_a_function_that_forgets_to_return_is_told_so():
    def forgetful(parameters, weight, gradient, state, master):
        parameters * weight

    verdict = judge("1.3", forgetful)
    assert verdict.status == "not attempted"
    assert "return" in verdict.problem
    assert "It returned nothing: does it end with `return …`?" in str(verdict)


def test_unknown_exercise(capsys):
    check("9.9", bytes_of)
    assert "There is no exercise '9.9'; there are 1.1" in capsys.readouterr().out
    assert judge(None, bytes_of).status == "unknown exercise"


def test_partial_credit_by_property():
    def without_master(parameters, weight, gradient, state, master):
        return parameters * (weight + gradient + 2 * state)

    verdict = judge("1.3", without_master)
    held = dict(verdict.properties)
    assert held["count weights, gradients and both of Adam's averages"]
    assert not held["count the fp32 master copy where there is one"]
    assert 0 < verdict.points < verdict.out_of


def test_wrong_signature():
    assert "it will be called with (parameters, weight" in judge("1.3", lambda n: n).problem
    assert judge("1.3", lambda *arguments: bytes_of(*arguments)).status == "correct"


def test_a_value_where_a_function_is_asked_for():
    assert "a function of (parameters" in judge("1.3", 42).problem


def test_an_error_is_told_with_its_line():
    def broken(parameters, weight, gradient, state, master):
        return parameters / (weight - weight)

    problem = judge("1.3", broken).problem
    assert "ZeroDivisionError" in problem
    assert "return parameters / (weight - weight)" in problem


class Liar:
    """Equal to everything."""

    def __eq__(self, other):
        return True

    def __float__(self):
        return 16.0


class LyingFloat(float):
    def __eq__(self, other):
        return True

    def __sub__(self, other):
        return 0.0


class LyingArray(np.ndarray):
    def __array_function__(self, *arguments):
        return True


@pytest.mark.parametrize(
    "lie", [Liar(), LyingFloat(3.0), np.zeros(1).view(LyingArray), [Liar()], {"a": Liar()}]
)
def test_objects_that_lie_about_equality_are_refused(lie):
    verdict = judge("1.3", lambda *arguments: lie)
    assert verdict.status == "wrong"
    assert "cannot be checked" in verdict.problem


def raiser(error):
    def answer(*arguments):
        raise error

    return answer


def forever(*arguments):
    def deeper(n):  # of one argument: Python 3.13.0 does not count calls of a function that takes *arguments
        return deeper(n + 1)

    return deeper(0)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (raiser(SystemExit(3)), "SystemExit"),
        (raiser(RuntimeError("two\nlines")), "RuntimeError: two"),
        (raiser(GeneratorExit()), "GeneratorExit"),
        (forever, "RecursionError"),
        (lambda *arguments: (i for i in range(3)), "generator"),
        (lambda *arguments: np.zeros(20_000_000, dtype=np.int8), "cannot be checked"),
        (lambda *arguments: np.array([object()]), "cannot be checked"),
        (lambda *arguments: float("nan"), "NaN"),
        (lambda *arguments: True, "a number is asked for"),
        (lambda *arguments: "16", "a number is asked for"),
        (lambda *arguments: np.zeros(3), "array"),
        (lambda *arguments: print, "cannot be checked"),
    ],
)
def test_whatever_comes_back_is_answered_in_a_sentence(answer, sentence):
    verdict = judge("1.3", answer)
    assert verdict.status == "wrong"
    assert sentence in verdict.problem


def test_an_endless_loop_ends(monkeypatch):
    module = sys.modules[judge.__module__]
    monkeypatch.setattr(module, "call_all", lambda answer, calls: call_all(answer, calls, 0.2))

    def endless(*arguments):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    assert "within 0.2 seconds: is there a loop that never ends" in judge("1.3", endless).problem


def test_the_clock_rings_within_a_call_alone():
    taken = []
    for outcome in call_all(lambda: 1, [()] * 4, 0.2):
        time.sleep(0.3)  # whoever takes an outcome is not interrupted
        taken.append(outcome)
    assert taken == [Outcome(1), LATE]

    def deaf():
        while True:
            try:
                time.sleep(5)
            except TooSlow:
                return 2

    assert call(deaf, (), 0.1) == Outcome(2)
    time.sleep(1.2)  # the bell rings every second: not any more
    with pytest.raises(TooSlow), time_limit(0.1):
        time.sleep(5)
    time.sleep(1.2)


def test_a_person_can_still_interrupt():
    with pytest.raises(KeyboardInterrupt):
        check("1.3", raiser(KeyboardInterrupt()))


def test_changing_the_inputs_changes_nothing_outside():
    def vandal(W, g, m, v, gamma, beta1, beta2, eps):
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * g**2
        W -= gamma * m / (np.sqrt(v) + eps)
        return W, m, v

    assert judge("1.2", vandal).status == "correct"  # in place, and right


def test_tensors_and_numpy_numbers_are_plain():
    def with_torch(W, g, m, v, gamma, beta1, beta2, eps):
        W, g, m, v = map(torch.from_numpy, (W, g, m, v))
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        return [W - gamma * m / (v.sqrt() + eps), m, v]

    assert judge("1.2", with_torch).status == "correct"
    assert judge("1.3", lambda *a: np.int64(bytes_of(*a))).status == "correct"
    assert judge("1.3", lambda *a: float(bytes_of(*a))).status == "correct"


def test_html_is_escaped():
    verdict = judge("1.3", raiser(ValueError("<script>alert(1)</script>")))
    assert "&lt;script&gt;" in verdict.html()
    assert "<script>" not in verdict.html()
    assert "<code>raise error</code>" in verdict.html()


def test_a_mistake_that_gives_nan_is_still_recognised():
    def no_square(W, g, m, v, gamma, beta1, beta2, eps):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g
        return W - gamma / (np.sqrt(v) + eps) * m, m, v

    assert judge("1.2", no_square).mistake == "no square"
    assert judge("1.2", lambda W, g, *rest: (W, g, g)).problem.startswith("in W, it returned")


def test_a_verdict_is_shown_once_in_a_notebook():
    """``check`` displays; its result, as the last line of a cell, displays nothing more."""
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    from IPython.utils.capture import capture_output
    from traitlets.config import Config

    running = shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    with capture_output() as seen:
        running.run_cell("from course_lib.exercises import check\ncheck('1.3', None)")
    shell.clear_instance()
    assert len(seen.outputs) == 1
    assert set(seen.outputs[0].data) == {"text/plain", "text/html"}
    assert "Verdict" not in seen.stdout


HALF = Exercise(
    difficulty=1,
    hints=("Divide.", "By two."),
    id="1.99",
    title="A number",
    text="Half of one.",
    parameters=(),
    cases=lambda rng: [Case("be half of one", ())],
    reference=lambda: 0.5,
    mistakes=(Mistake("twice", lambda: 2.0, "Halve, do not double."),),
)


@pytest.mark.parametrize(
    ("answer", "status", "mistake"),
    [
        (0.5, "correct", None),
        (np.float32(0.5), "correct", None),
        (torch.tensor(0.5), "correct", None),
        (lambda: 0.5, "correct", None),
        (2, "wrong", "twice"),
        (3.0, "wrong", None),
        ("half", "wrong", None),
        (..., "not attempted", None),
        (None, "not attempted", None),
    ],
)
def test_an_answer_may_be_a_number(answer, status, mistake):
    verdict = judge(HALF, answer)
    assert (verdict.status, verdict.mistake) == (status, mistake)


ROW = replace(HALF, reference=lambda: np.arange(20.0), mistakes=())


def test_an_answer_may_be_an_array():
    assert judge(ROW, np.arange(20)).status == "correct"
    assert judge(ROW, list(range(20))).status == "correct"
    wrong = np.arange(20.0)
    wrong[7] = 1.0
    assert "at index [7], it returned 1, but 7 is right" in judge(ROW, wrong).problem


class Hostile:
    """Fails at whatever is asked of it."""

    def __getattribute__(self, name):
        raise LookupError(name)


class Mute:
    def __repr__(self):
        raise RuntimeError


class UntellableError(Exception):
    def __str__(self):
        raise RuntimeError


ODD = [Hostile, Mute, lambda: raiser(UntellableError()), lambda: 10**5000, lambda: [[]], dict, lambda: len]


@pytest.mark.parametrize("make", ODD)
def test_check_never_raises(make):
    assert check("1.3", make()).status == "wrong"
    assert check(HALF.id, make()).status == "unknown exercise"


@pytest.mark.parametrize("make", [lambda: None, lambda: 1.1, list, Hostile])
def test_check_never_raises_whatever_the_id(make):
    assert check(make(), bytes_of).status in ("unknown exercise", "wrong")


def test_a_number_too_long_to_print():
    assert "about 5000 digits" in judge("1.3", lambda *arguments: 10**5000).problem


def test_the_handler_of_an_alarm_that_was_there_is_put_back():
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGALRM, mine)
    try:
        judge("1.3", bytes_of)
        assert signal.getsignal(signal.SIGALRM) is mine
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_works_outside_the_main_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(judge, "1.3", bytes_of).result().status == "correct"


def test_no_warning_of_a_students_arithmetic_is_left_on_the_screen():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = judge("1.2", lambda W, g, m, v, gamma, beta1, beta2, eps: (W / 0, np.sqrt(-v), m))
    assert "returned" in verdict.problem


@pytest.mark.parametrize(
    ("expected", "got", "sentence"),
    [
        (1.0, 1.0 + 1e-12, None),
        (1.0, 1.001, "but 1 is right"),
        (np.ones(3), np.ones(4), r"shape (4,), (3,)"),
        (np.ones(3), [1, 1, 1], None),
        (np.ones(2), [1, float("nan")], "NaN"),
        ([1.0, 2.0], [1.0], "1 value, where 2 should"),
        ([1.0, 2.0], [1.0, 3.0], "in value 2"),
        ("a", "b", "'b'"),
        ("a", "a", None),
    ],
)
def test_difference(expected, got, sentence):
    found = difference(expected, got, 1e-9)
    assert (found is None) if sentence is None else (sentence in found)


def test_plain_refuses_subclasses_by_name():
    with pytest.raises(NotPlain, match="LyingFloat"):
        plain(LyingFloat(1.0))


def test_two_hints_wait_folded_for_who_has_not_solved_it(capsys):
    for answer in (None, lambda *arguments: 1):
        page = judge("1.3", answer).html()
        assert page.count("<details") == 2
        assert "<summary>Hint 2</summary>A weight, a gradient" in page
        assert 'exercises.hint("1.3")' in str(judge("1.3", answer))
    assert "details" not in judge("1.3", bytes_of).html()
    assert "★☆☆, 2 points" in str(judge("1.3", None))
    hint("1.3")
    hint("1.3", 2)
    hint("9.9")
    first, second, unknown = capsys.readouterr().out.splitlines()
    assert first.startswith("Exercise 1.3, hint 1: List all")
    assert second.startswith("Exercise 1.3, hint 2: A weight")
    assert "an exercise such as" in unknown


def test_rounding_of_another_method_is_no_mistake():
    import math

    def by_logarithms(n, right, k):
        def log_binomial(a, b):
            return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

        return 1 - math.exp(log_binomial(n - right, k) - log_binomial(n, k)) if n - right >= k else 1.0

    assert judge("5.7", by_logarithms).status == "correct"
