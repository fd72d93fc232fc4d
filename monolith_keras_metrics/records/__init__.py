"""The record: its schema, and how batches become one."""
