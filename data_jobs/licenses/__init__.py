"""Licences: SPDX expressions, what files say of themselves, licence texts, package metadata, and what each covers."""
