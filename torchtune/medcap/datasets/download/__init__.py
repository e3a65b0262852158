"""``medcap download``: data sets from where their authors published them, to where converters and tasks look."""
