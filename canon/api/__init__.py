"""The functions that users call, on modules, state dicts and files alike; `canon` exports them."""
