"""The pages and the REST interface: each view parses, calls one function, and renders."""
