"""The encrypted store: a TinyDB whose one file is sealed, replaced atomically, and guarded against being rolled back."""

from edge_client.know.store.keys import Passphrase, RawKey, SystemKeyring
from edge_client.know.store.records import Records, Store
from edge_client.know.store.storage import EncryptedStorage

__all__ = ["EncryptedStorage", "Passphrase", "RawKey", "Records", "Store", "SystemKeyring"]
