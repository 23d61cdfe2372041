"""The encrypted store: a TinyDB whose file is a journal of sealed commits, with snapshots, guarded against being rolled back.

In the order of reading: records (tables and transactions), documents (TinyDB's table), storage (TinyDB's storage), sealed_journal
(commits, snapshots, keys), opening, quarantine (damage), journal (the file), frames (its bytes), contents (memory), keys,
key_ring, key_sources, erasure, migrations; whole_file reads the former format.
"""

from edge_client.know.store.keys import Passphrase, RawKey, SystemKeyring
from edge_client.know.store.quarantine import Quarantine
from edge_client.know.store.records import Records, Store
from edge_client.know.store.storage import EncryptedStorage

__all__ = ["EncryptedStorage", "Passphrase", "Quarantine", "RawKey", "Records", "Store", "SystemKeyring"]
