"""The networks of the method as plain modules and tensor functions; nothing here downloads anything."""
