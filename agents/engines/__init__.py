"""Kinds of VE: one file or folder each, behind `port.Engine`; `registry` says which this host offers."""
