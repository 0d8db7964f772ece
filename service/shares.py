"""How much of what all share one client may hold."""

# One that holds something may hold so many times what is left (dynamic thresholds, Choudhury and Hahne 1998): alone
# eight ninths, and with k others like it there is still room for one more.
SHARE = 8
