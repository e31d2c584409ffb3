"""Where files come from: each kind of source lists its entries, and reads them one by one."""
