"""What things are: values and our two file formats, without I/O."""
