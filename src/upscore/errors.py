"""The exception for invalid user input."""


class UserError(ValueError):
    """Invalid user input: a file, an option or an argument.

    The message is one sentence with the file, the field or the value, what is wrong with it, and a remedy. The command
    line prints only the message. Any other exception is a bug of upscore and is shown with its traceback.
    """
