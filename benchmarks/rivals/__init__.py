"""What else makes a ResNet cheaper, as the talk on LCCL names it: pruned filters, binary weights, binary inputs too."""
