"""What `edakari explain` looks at: filters, saliency maps, tokens."""
