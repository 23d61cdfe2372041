"""Understanding what the user wrote: text → intent. All on the device; nothing here sends or stores anything."""
