"""The paper's experiments: what is run (`catalogue`), how (`runner`), and the tables (`report`)."""
