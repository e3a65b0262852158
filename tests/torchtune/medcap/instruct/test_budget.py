import threading

from medcap.instruct.budget import Budget, Limits
from medcap.language_models.base import Prompt, Reply, Turn


def prompt(id, letters=300):
    return Prompt((Turn("user", "x" * letters),), id)


def test_prompts_on_their_way_have_room_for_their_longest_reply():
    budget = Budget(Limits(tokens=1000), max_new_tokens=300)
    # 100 tokens by its letters and 300 of reply each: the third would be beyond.
    assert [budget.admit(prompt(id)) for id in "ab"] == ["", ""]
    assert budget.admit(prompt("c")).startswith("the budget of 1,000 tokens, of which 0 are used, has no room")
    budget.spend(prompt("a"), Reply("words", num_tokens=10, num_prompt_tokens=80))
    assert budget.admit(prompt("c")) == ""
    for id in "bc":
        budget.spend(prompt(id), Reply("words", num_tokens=250, num_prompt_tokens=120))
    # The longest prompt so far stands for the next one, whatever its letters: 830 + 120 + 300.
    assert budget.admit(prompt("d", letters=3)) != ""
    assert (budget.prompt_tokens, budget.tokens, budget.estimated) == (320, 510, 0)


def test_another_thread_waits_for_the_room_of_prompts_on_their_way():
    budget = Budget(Limits(cost=1.0, price_in=1e4, price_out=1e4), max_new_tokens=50)
    assert budget.admit(prompt("a", letters=30)) == ""
    said = []
    waiting = threading.Thread(target=lambda: said.append(budget.admit(prompt("b", letters=30))))
    waiting.start()
    waiting.join(0.05)
    assert said == []
    budget.spend(prompt("a"), Reply("", "error", error="failed"))
    waiting.join()
    assert said == [""]
    budget.spend(prompt("b"), Reply("x" * 150, num_tokens=0))
    # Not counted: 100 by the prompt's letters, 50 by the reply's.
    assert (budget.prompt_tokens, budget.tokens, budget.estimated, budget.cost) == (100, 50, 1, 1.5)
    assert budget.admit(prompt("c")) == (
        "the budget of 1, of which 1.5 is used, has no room for another prompt and its longest reply: raise --max-cost"
        " to go on"
    )
