"""`apicas report`: one page of HTML from event files. It is read, summed up, and drawn."""
