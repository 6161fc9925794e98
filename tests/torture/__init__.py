# SPDX-License-Identifier: Apache-2.0
"""A judge of histories: random steps of operators, clients and fate, and a ledger of its own.

It imports nothing of the charms: what it demands is what the pages promise. Read ledger.py first,
then steps.py (what can happen) and judge.py (what must be true after each step).
"""
