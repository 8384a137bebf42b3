"""What a user can get wrong."""


class UserError(ValueError):
    """A mistake in what the user gave, told in one sentence: what is wrong, where (file, field, value) and the remedy.

    The command line prints the sentence alone; any other exception is a fault of ours and keeps its traceback.
    """
