"""Models trained from scratch with a ResNet and with one of our backbones in its place."""
