"""Packaged configurations, named on the command line as `medcap/FOLDER/NAME`."""
