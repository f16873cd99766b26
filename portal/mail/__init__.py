"""Mail: what a message says, the outbox that owes it, and the ways in which it leaves the portal."""
