"""What both simulations say of a law that is broken."""


class Violation(AssertionError):
    """``law``: a member of an enum of promises; ``history``: the end of what happened."""

    def __init__(self, law, problem, history=""):
        super().__init__(law, problem, history)
        self.law, self.problem, self.history = law, problem, history

    def __str__(self):
        return f"{self.law.name} ({self.law.value}): {self.problem}\n{self.history}"
