;;; starloom.el --- Completions and attribution by a Starloom server of your own -*- lexical-binding: t -*-

;; Version: 0.1.0
;; Package-Requires: ((emacs "28.1"))
;; Keywords: convenience, tools
;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; (require 'starloom)
;; (setq starloom-url "https://code.example.org")
;; (add-hook 'prog-mode-hook #'starloom-mode)
;;
;; While a suggestion is shown: TAB takes it, M-<right> a word, M-RET a line, C-g takes it away; M-\ asks for one
;; (`starloom-mode-map', `starloom-ghost-map').  `starloom-attribution' marks what of the region, or the buffer, stands
;; in the training data; `starloom-attributions' lists it; `starloom-health' says what the server says.
;; The key is the password of auth-source (~/.authinfo.gpg) for the server's host and the user "starloom", or
;; $STARLOOM_API_KEY.  Nothing is sent but to that server.

;;; Code:

(require 'auth-source)
(require 'cl-lib)
(require 'json)
(require 'seq)
(require 'subr-x)
(require 'url)
(require 'url-http)
(defvar url-http-end-of-headers)
(declare-function project-root "project")

(defgroup starloom nil "Completions by a Starloom server." :group 'convenience)
(defcustom starloom-url "http://127.0.0.1:8000" "The server." :type 'string)
(defcustom starloom-model nil "The model that is asked, where the server has several." :type '(choice (const nil) string))
(defcustom starloom-automatic t "Whether suggestions come while you type." :type 'boolean)
(defcustom starloom-delay 0.075 "Seconds without a key before the server is asked." :type 'number)
(defcustom starloom-lines 8 "Most lines of a suggestion; one where code stands behind point." :type 'integer)
(defcustom starloom-max-tokens 96 "Most tokens of a suggestion." :type 'integer)
(defcustom starloom-other-files t "Whether pieces of other buffers are sent as context." :type 'boolean)
(defcustom starloom-exclude nil "Regular expressions of file names whose text is never sent." :type '(repeat regexp))
(defcustom starloom-attribute-accepted t "Whether accepted suggestions are looked up." :type 'boolean)
(defcustom starloom-tell-server nil "Whether numbers of characters shown and taken are told, never a text." :type 'boolean)
(defface starloom-ghost '((t :inherit shadow)) "Suggestions.")
(defface starloom-found '((t :inherit warning :underline t)) "Passages of the training data.")

(defconst starloom--client "emacs/0.1.0")
(defconst starloom--ahead 8192 "Characters before point that are sent.")
(defconst starloom--behind 2048 "And after it.")
(defconst starloom--grid 1024 "A window begins at a multiple of it, which stays while somebody types on.")
(defconst starloom--secret
  (rx (or (seq (or bos "/" "\\")
               (or (seq ".env" (? (any ".-") (* (not (any "/\\"))))) ".envrc" ".netrc" "_netrc" ".npmrc" ".pypirc"
                   ".git-credentials" ".pgpass" ".htpasswd" (seq ".authinfo" (* (not (any "/\\"))))
                   (seq "credentials" (? "." (+ word))) (seq (or "secret" "secrets") "." (or "yaml" "yml" "json" "toml" "ini" "env" "tfvars"))
                   (seq "id_" (or "rsa" "dsa" "ecdsa" "ed25519") (* (not (any "/\\"))))
                   (seq (* (not (any "/\\"))) "." (or "pem" "key" "p12" "pfx" "kdbx" "gpg" "asc" "jks" "keystore" "tfvars" "tfstate")))
               eos)
          (seq (or bos "/" "\\") "." (or "ssh" "gnupg" "aws" "kube" "docker") (any "/\\"))))
  "Names of files whose text is never sent.")

(defvar starloom-counts (list :asked 0 :shown 0 :accepted 0 :cancelled 0 :cached 0) "Of this session; told to nobody.")
(defvar starloom--problem nil "What the server said last, if it was a refusal.")
(defvar starloom--resting 0 "Until then nobody is asked of itself.")
(defvar starloom--cache (make-hash-table :test #'equal))
(defvar-local starloom--overlay nil)
(defvar-local starloom--live nil "Whether a suggestion is shown: turns its keys on.")
(defvar-local starloom--request nil "The buffer of the request that is waited for.")
(defvar-local starloom--timer nil)

(defun starloom--count (what) "One more of WHAT." (cl-incf (plist-get starloom-counts what)))

;;;; The wire

(defun starloom--key ()
  "The key for the server, or nil."
  (let* ((found (car (auth-source-search :host (url-host (url-generic-parse-url starloom-url)) :user "starloom" :max 1)))
         (secret (plist-get found :secret)))
    (if secret (if (functionp secret) (funcall secret) secret) (getenv "STARLOOM_API_KEY"))))

(defun starloom--told (status)
  "What the current buffer says: an object, or problem, code and wait.
STATUS is url.el's."
  (let* ((code (or (bound-and-true-p url-http-response-status) 0))
         (told (ignore-errors
                 (goto-char url-http-end-of-headers)
                 (json-parse-string (decode-coding-string (buffer-substring (point) (point-max)) 'utf-8)
                                    :object-type 'alist :array-type 'list :null-object nil :false-object nil)))
         (object (and (consp told) (consp (car told)) told))
         (wait (save-excursion (goto-char (point-min)) (and (re-search-forward "^retry-after: \\([0-9]+\\)" nil t)
                                                            (string-to-number (match-string 1))))))
    (cond ((and (<= 200 code 299) object) object)
          ((zerop code) `((problem . ,(format "no answer from %s: %s" starloom-url (car (last (plist-get status :error))))) (code . 0) (wait . 2)))
          (t (let ((said (alist-get 'error object (alist-get 'detail object))))
               `((problem . ,(format "%d %s" code (cond ((stringp said) said) ((alist-get 'message said))
                                                        (t "no JSON; is this a Starloom server?"))))
                 (code . ,code) (wait . ,(or wait (if (or (not object) (>= code 500)) 2 0)))))))))

(defun starloom--ask (path body callback)
  "POST BODY to PATH, or GET it where BODY is nil.
CALLBACK gets what `starloom--told' makes of the answer."
  (let* ((key (starloom--key))
         (url-request-method (if body "POST" "GET"))
         (url-request-extra-headers
          `(("Content-Type" . "application/json") ("X-Starloom-Client" . ,starloom--client)
            ,@(when key `(("Authorization" . ,(encode-coding-string (concat "Bearer " key) 'us-ascii))))))
         (url-request-data (and body (encode-coding-string (json-serialize body :null-object nil :false-object :false) 'utf-8)))
         (url-show-status nil) (inhibit-message t) (url-mime-accept-string "application/json"))
    (condition-case problem
        (url-retrieve (concat (string-remove-suffix "/" starloom-url) path)
                      (lambda (status)
                        (let ((told (starloom--told status)) (buffer (current-buffer)))
                          (funcall callback told)
                          (when (buffer-live-p buffer) (kill-buffer buffer))))
                      nil t t)
      (error (funcall callback `((problem . ,(format "no answer from %s: %s" starloom-url (error-message-string problem))) (code . 0) (wait . 2)))
             nil))))

(defun starloom--stop ()
  "Nobody waits any more: hang up, which ends the work on the server."
  (when (timerp starloom--timer) (cancel-timer starloom--timer))
  (when (buffer-live-p starloom--request)
    (when-let* ((process (get-buffer-process starloom--request)))
      (set-process-sentinel process #'ignore)
      (starloom--count :cancelled)
      (delete-process process))
    (let (kill-buffer-query-functions) (kill-buffer starloom--request)))
  (setq starloom--timer nil starloom--request nil))

(defun starloom--refused (original &rest arguments)
  "Call ORIGINAL with ARGUMENTS, but not for our own requests.
Their callbacks tell of 401, where url.el asks for a name."
  (or (and (assoc "X-Starloom-Client" (bound-and-true-p url-http-extra-headers)) t) (apply original arguments)))
(advice-add 'url-http-handle-authentication :around #'starloom--refused)

(defun starloom--tell (type id characters)
  "Tell that of completion ID CHARACTERS were shown or taken, by TYPE."
  (when starloom-tell-server
    (starloom--ask "/v1/events" `((type . ,type) (completion_id . ,(or id "")) (characters . ,characters) (language . ,(starloom--language))) #'ignore)))

;;;; What is asked

(defun starloom--language () "Of this buffer." (string-remove-suffix "-ts" (string-remove-suffix "-mode" (symbol-name major-mode))))
(defun starloom--root () "The folder that names are relative to." (or (when-let* ((project (and (fboundp 'project-current) (project-current)))) (project-root project)) default-directory))
(defun starloom--name () "Of this buffer's file." (if buffer-file-name (file-relative-name buffer-file-name (starloom--root)) ""))

(defun starloom--kept-p ()
  "Whether this buffer's text is never sent."
  (let ((case-fold-search t) (name (or buffer-file-name "")))
    (or (string-match-p starloom--secret name) (not enable-multibyte-characters)
        (seq-some (lambda (one) (string-match-p one name)) starloom-exclude))))

(defvar-local starloom--ignored 'unknown "Whether git ignores this file.")
(defun starloom--ignored-p ()
  "Whether git ignores this buffer's file; asked once."
  (when (eq starloom--ignored 'unknown)
    (setq starloom--ignored (and (not (file-remote-p default-directory)) (executable-find "git")
                                 (eq 0 (ignore-errors (call-process "git" nil nil nil "check-ignore" "-q" buffer-file-name))))))
  starloom--ignored)

(defun starloom--others ()
  "Pieces of other buffers in the same mode, those seen last at the end."
  (let ((mode major-mode) (here (current-buffer)) (root (starloom--root)) found)
    (dolist (buffer (and starloom-other-files (buffer-list)) (vconcat found))
      (with-current-buffer buffer
        (when (and (< (length found) 8) (not (eq buffer here)) buffer-file-name (eq major-mode mode) (not (starloom--kept-p)) (not (starloom--ignored-p)))
          (save-restriction
            (widen)
            (save-excursion
              (forward-line -32)
              (let ((from (point)))
                (forward-line 64)
                (push `((filename . ,(file-relative-name buffer-file-name root))
                        (text . ,(starloom--sendable from (min (point) (+ from 8192)))))
                      found)))))))))

(defun starloom--sendable (from to)
  "Text FROM TO; raw bytes become marks of replacement."
  (replace-regexp-in-string "[^[:unibyte:][:nonascii:]]\\|[\x3fff80-\x3fffff]" "\ufffd" (buffer-substring-no-properties from to)))

(defun starloom--around ()
  "Text before and after point, from a line near a multiple of the grid."
  (save-restriction
    (widen)
    (let ((from (max (point-min) (- (point) starloom--ahead))))
      (when (> from (point-min))
        (setq from (min (point) (* starloom--grid (ceiling from starloom--grid))))
        (save-excursion
          (goto-char from)
          (forward-line 1)
          (when (< (- (point) from) 256) (setq from (point)))))
      (cons (starloom--sendable (min from (point)) (point))
            (starloom--sendable (point) (min (point-max) (+ (point) starloom--behind)))))))

(defun starloom--most (suffix)
  "How many lines fit before SUFFIX."
  (if (string-match-p "\\`[]})\"'`;:, \t]*\\(?:\n\\|\\'\\)" suffix) starloom-lines 1))

(defun starloom--trimmed (text suffix)
  "TEXT without what SUFFIX begins with, and not too many lines."
  (let* ((following (split-string suffix "\n")) (rest (car following))
         (next (seq-find (lambda (line) (string-match-p "[^ \t]" line)) (cdr following)))
         (lines (seq-take (split-string (string-trim-right (string-replace "\r" "" text)) "\n") (starloom--most suffix)))
         (repeated (and next (cl-position next lines :test #'equal :start (min 1 (length lines)))))
         (text (string-trim-right (string-join (if repeated (seq-take lines repeated) lines) "\n")))
         (tail (seq-find (lambda (one) (and (not (string-blank-p one)) (string-suffix-p one text))) (list rest (string-trim rest)))))
    (if tail (string-remove-suffix tail text) text)))

(defun starloom-suggest ()
  "Ask for a suggestion at point."
  (interactive)
  (starloom-dismiss)
  (unless (or (starloom--kept-p) buffer-read-only)
    (pcase-let* ((`(,prefix . ,suffix) (starloom--around))
                 (key (secure-hash 'sha1 (encode-coding-string (concat prefix "\0" (substring suffix 0 (min 200 (length suffix)))) 'utf-8)))
                 (known (gethash key starloom--cache))
                 (buffer (current-buffer)) (tick (buffer-chars-modified-tick)) (at (point)))
      (if known
          (progn (starloom--count :cached) (starloom--show (cdr known) (car known) t))
        (starloom--count :asked)
        (setq starloom--request
              (starloom--ask
               "/v1/completions"
               `((prompt . ,prefix) (suffix . ,suffix) (max_tokens . ,starloom-max-tokens) (temperature . 0)
                 (max_lines . ,(starloom--most suffix)) (filepath . ,(starloom--name)) (language . ,(starloom--language))
                 (extra_context . ,(starloom--others)) ,@(when starloom-model `((model . ,starloom-model))))
               (lambda (told)
                 (when (buffer-live-p buffer)
                   (with-current-buffer buffer
                     (setq starloom--request nil)
                     (starloom--answered told key suffix (and (= tick (buffer-chars-modified-tick)) (= at (point)))))))))))))

(defun starloom--answered (told key suffix still)
  "TOLD came for the window KEY before SUFFIX; show it if point is STILL there."
  (let-alist told
    (setq starloom--problem .problem starloom--resting (+ (float-time) (or .wait 0)))
    (unless .problem
      (let ((answer (cons .id (starloom--trimmed (or (alist-get 'text (car .choices)) "") suffix))))
        (when (> (hash-table-count starloom--cache) 200) (clrhash starloom--cache))
        (puthash key answer starloom--cache)
        (when still (starloom--show (cdr answer) (car answer) t)))))
  (force-mode-line-update))

;;;; What is seen

(defvar starloom-ghost-map
  (let ((map (make-sparse-keymap)))
    (pcase-dolist (`(,keys . ,command) '(("TAB" . starloom-accept) ("<tab>" . starloom-accept) ("M-<right>" . starloom-accept-word)
                                         ("C-<right>" . starloom-accept-word) ("M-RET" . starloom-accept-line) ("C-g" . starloom-dismiss))
                                map)
      (define-key map (kbd keys) command)))
  "Keys while a suggestion is shown.")

(defun starloom-shown () "The suggestion on screen, or nil." (and (overlayp starloom--overlay) (overlay-buffer starloom--overlay) (overlay-get starloom--overlay 'starloom)))

(defun starloom--show (text id &optional fresh)
  "Show TEXT of completion ID at point; FRESH unless it is the rest of one."
  (starloom--clear)
  (unless (string-empty-p text)
    (when fresh (starloom--count :shown) (starloom--tell "view" id (length text)))
    (let ((ghost (propertize text 'face 'starloom-ghost)))
      (put-text-property 0 1 'cursor t ghost) ; the cursor stays before it
      (setq starloom--overlay (make-overlay (point) (point) nil t nil) starloom--live t)
      (overlay-put starloom--overlay 'after-string ghost)
      (overlay-put starloom--overlay 'starloom text)
      (overlay-put starloom--overlay 'starloom-id id)
      (overlay-put starloom--overlay 'priority 100))))

(defun starloom--clear ()
  "Show nothing."
  (when (overlayp starloom--overlay) (delete-overlay starloom--overlay))
  (setq starloom--live nil starloom--overlay nil))
(defun starloom-dismiss () "Take the suggestion away." (interactive) (starloom--stop) (starloom--clear))

(defun starloom--take (pattern)
  "Insert what PATTERN matches of the suggestion."
  (let* ((text (starloom-shown)) (id (overlay-get starloom--overlay 'starloom-id)) (from (point))
         (taken (if (string-match pattern text) (match-string 0 text) text)) (rest (substring text (length taken))))
    (starloom-dismiss)
    (undo-boundary)
    (insert taken)
    (starloom--tell "select" id (length taken))
    (if (not (string-empty-p rest)) (starloom--show rest id)
      (starloom--count :accepted)
      (when starloom-attribute-accepted (starloom--look-up (max (point-min) (- from 100)) (point) from)))))
(defun starloom-accept () "Take all of it." (interactive) (starloom--take "\\`\\(?:.\\|\n\\)*\\'"))
(defun starloom-accept-word () "Take a word of it." (interactive) (starloom--take "\\`[ \t\n]*\\(?:\\(?:\\sw\\|_\\)+\\|[^[:alnum:]_ \t\n]+\\)"))
(defun starloom-accept-line () "Take a line of it." (interactive) (starloom--take "\\`\n?[^\n]*"))

(defconst starloom--own '(starloom-accept starloom-accept-word starloom-accept-line starloom-suggest))
(defconst starloom--typing '(self-insert-command newline newline-and-indent electric-newline-and-maybe-indent reindent-then-newline-and-indent
                             delete-backward-char backward-delete-char-untabify indent-for-tab-command python-indent-dedent-line-backspace yank))

(defun starloom--after-command ()
  "Shorten what is typed through, ask after other changes, dismiss on moves."
  (unless (memq this-command starloom--own)
    (let* ((text (starloom-shown)) (from (and text (overlay-start starloom--overlay)))
           (typed (and from (> (point) from) (buffer-substring-no-properties from (point)))))
      (cond
       ((and typed (< (length typed) (length text)) (string-prefix-p typed text))
        (starloom--show (substring text (length typed)) (overlay-get starloom--overlay 'starloom-id)))
       ((and from (= from (point)) (not (memq this-command starloom--typing))))
       (t (starloom-dismiss)
          (when (and starloom-automatic (memq this-command starloom--typing) (< starloom--resting (float-time)))
            (setq starloom--timer (run-with-timer starloom-delay nil #'starloom--of-itself (current-buffer)))))))))

(defun starloom--of-itself (buffer)
  "Ask in BUFFER, if somebody still types there and not in the middle of a word."
  (when (and (buffer-live-p buffer) (eq buffer (window-buffer)))
    (with-current-buffer buffer
      (unless (or (use-region-p) (minibufferp) (looking-at-p "\\sw\\|\\s_") completion-in-region-mode) (starloom-suggest)))))

(add-to-list 'emulation-mode-map-alists `((starloom--live . ,starloom-ghost-map))) ; above the maps of other minor modes

(defvar starloom-mode-map (let ((map (make-sparse-keymap))) (define-key map (kbd "M-\\") #'starloom-suggest) map))
;;;###autoload
(define-minor-mode starloom-mode
  "Suggestions of a Starloom server at point."
  :lighter (:eval (cond (starloom--problem (propertize " Starloom!" 'help-echo starloom--problem)) (starloom--request " Starloom…") (t " Starloom")))
  (if starloom-mode
      (add-hook 'post-command-hook #'starloom--after-command nil t)
    (remove-hook 'post-command-hook #'starloom--after-command t)
    (starloom-dismiss)))

;;;; Attribution

(defun starloom--label (match)
  "Where MATCH stands, in one line."
  (let-alist match
    (let* ((file (car .files)) (licenses (seq-remove (lambda (one) (equal one "none")) (mapcar (lambda (one) (symbol-name (car one))) .licenses))))
      (format "in the training data%s: %s%s (%s)%s"
              (pcase .kind ("exact" "") ("white_space" " but for white space") ("renamed" " but for names") (_ (format " but for %s" .kind)))
              (if file (format "%s %s" (alist-get 'repository file) (alist-get 'path file)) "a file")
              (if-let* ((lines (alist-get 'lines file))) (format ", lines %d-%d" (car lines) (cadr lines)) "")
              (if licenses (string-join licenses ", ") "no licence stated")
              (if (> .count 1) (format " and %d more" (1- .count)) "")))))

(defun starloom--look-up (from to &optional wanted)
  "Mark what of FROM to TO stands in the training data.
What ends before WANTED is left out."
  (let ((buffer (current-buffer)))
    (starloom--ask
     "/overlap" `((document . ,(starloom--sendable from to)) (offsets . "code-points"))
     (lambda (told)
       (when (buffer-live-p buffer)
         (with-current-buffer buffer
           (remove-overlays (or wanted from) to 'starloom-found t)
           (let-alist told
             (if .problem (unless (and wanted (eql .code 404)) (message "Starloom: %s" .problem))
               (let ((found (seq-filter (lambda (match) (> (+ from (cadr (alist-get 'span match))) (or wanted from))) .matches)))
                 (dolist (match found)
                   (let* ((span (alist-get 'span match))
                          (overlay (make-overlay (max (or wanted from) (+ from (car span))) (min (point-max) (+ from (cadr span))))))
                     (overlay-put overlay 'starloom-found t)
                     (overlay-put overlay 'face 'starloom-found)
                     (overlay-put overlay 'help-echo (starloom--label match))))
                 (cond (found (message "Starloom: %s" (mapconcat #'starloom--label found "; ")))
                       ((not wanted) (message "Starloom: nothing of this stands in the training data"))))))))))))

;;;###autoload
(defun starloom-attribution (from to)
  "Mark what of FROM to TO, the region or the buffer, stands in the training data."
  (interactive (if (use-region-p) (list (region-beginning) (region-end)) (list (point-min) (point-max))))
  (if (starloom--kept-p) (message "Starloom: this file is never sent") (starloom--look-up from to)))

(defun starloom-attributions ()
  "List what was found in this buffer; RET goes there."
  (interactive)
  (let ((source (current-buffer))
        (found (sort (seq-filter (lambda (one) (overlay-get one 'starloom-found)) (overlays-in (point-min) (point-max)))
                     (lambda (a b) (< (overlay-start a) (overlay-start b))))))
    (if (not found) (message "Starloom: nothing found so far")
      (with-current-buffer (get-buffer-create "*Starloom attributions*")
        (let ((inhibit-read-only t))
          (erase-buffer)
          (dolist (one found)
            (insert-text-button (with-current-buffer source (format "%d: %s" (line-number-at-pos (overlay-start one)) (overlay-get one 'help-echo)))
                                'action (lambda (_) (pop-to-buffer source) (goto-char (or (overlay-start one) (point)))))
            (insert "\n")))
        (special-mode)
        (display-buffer (current-buffer))))))

;;;###autoload
(defun starloom-health ()
  "Say what the server says, and where the key comes from."
  (interactive)
  (starloom--ask
   "/v1/models" nil
   (lambda (told)
     (let-alist told
       (setq starloom--problem .problem starloom--resting 0)
       (message "Starloom: %s%s" (or .problem (mapconcat (lambda (card) (let-alist card (format "%s (a window of %s tokens, fills gaps: %s, attribution: %s)" .id .max_model_len (if .infilling "yes" "no") (if .attribution "yes" "no")))) .data ", "))
                (if (starloom--key) "" "; no key in auth-source or $STARLOOM_API_KEY"))))))

(provide 'starloom)
;;; starloom.el ends here
