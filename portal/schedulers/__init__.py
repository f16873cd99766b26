"""Schedulers: what each backend must offer, and the backends. They know scripts and names, not jobs."""
