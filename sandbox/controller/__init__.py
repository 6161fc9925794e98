# SPDX-License-Identifier: Apache-2.0
"""One model: its machines, its units' agents, its log and its socket."""
