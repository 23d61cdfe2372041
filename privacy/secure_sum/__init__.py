"""Secure sums: the server learns the sum of the devices' vectors modulo 2^32, with their noise in it, and nothing of any one.

The protocol is SecAgg+ (Bell et al. 2020, over Bonawitz et al. 2017) with agreement on the survivors. In the order of reading:
sizing (how many share-holders), shamir, masking (keys, KDFs, masks), roster (who takes part), messages (bytes on the wire),
device, server. Nothing here clips, adds noise or decides whether a device takes part: that is the gate's work.
"""
