def check(data: str): "Check."
