"""Side tables, from their files to the catalogs.

Rows of a side table are spread over parts by the hash of their key, so that no worker has more than one part
in memory. Each part drops its duplicate keys, takes part in assigning ids to users or items like a user shard
whose keys have no train rows, gets the ids and train counts of its keys, counts the keys of its features over
the users or items with train rows, gets the ids of these, and sends its rows to the catalog files.

Parts are numbered from JobLayout.first_shard on, among the user shards.
"""
