# SPDX-License-Identifier: Apache-2.0
"""What both charms of this repository do to a machine. Not for other charms: nothing is promised.

Edit ``lib/nfs_charms/`` at the top of the repository; the copies in the charms are made from it
(``./dev vendor``).
"""
