"""The one error class for mistakes a user can mend."""


class UserError(ValueError):
    """A mistake in a configuration, a file or a data set, told in one sentence.

    The message names the field or file, says what was found and what would be right. Jobs print
    it without a traceback and end with exit code 2.
    """


def nearest(word: str, choices: list[str] | tuple[str, ...]) -> str:
    """Return " (did you mean 'x'?)" for the closest choice, or an empty string.

    Args:
        word: What the user wrote.
        choices: The words that would have been right.
    """
    # imported here: difflib is only needed on the way to an error message
    from difflib import get_close_matches

    close = get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
