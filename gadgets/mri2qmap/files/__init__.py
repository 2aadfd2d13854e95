"""Reading of scan files and B1 maps, and writing of output folders."""
