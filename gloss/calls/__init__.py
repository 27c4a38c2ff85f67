"""Every method of the clients, once: what it takes, what it asks, what answers it, and its documentation.

Each function turns the caller's arguments into a plan. `Client` and `AsyncClient` take over the functions' signatures
and differ in how they carry a plan out, never in what it says.
"""
