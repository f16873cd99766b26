"""People: browser sessions now; who has proved which address, later."""
